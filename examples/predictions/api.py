"""The prediction service: what will happen in the next matches, and how sure the model is."""

import math
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

app = FastAPI(title="Football predictions", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")

# Strength in attack and in defence, as the last training run left them.
TEAMS = {
    "Ashford": (1.62, 0.84),
    "Brackley": (1.18, 1.12),
    "Carrow": (1.41, 0.95),
    "Dunmore": (0.88, 1.37),
    "Eastby": (1.29, 1.01),
    "Fenwick": (1.05, 1.20),
}
HOME_ADVANTAGE = 1.15
MOST_GOALS = 8

names = list(TEAMS)
FIXTURES = {
    number: {"id": number, "home": names[number % 6], "away": names[(number + 1 + number // 6 % 5) % 6]}
    for number in range(1, 61)
}
answered = Counter()


class Feedback(BaseModel):
    fixture: int
    rating: int = Field(ge=1, le=5)
    comment: str = Field(default="", max_length=2000)


@app.middleware("http")
async def count(request: Request, call_next):
    response = await call_next(request)
    answered[response.status_code] += 1
    return response


def now():
    return datetime.now(timezone.utc).isoformat()


def fixture_of(number):
    if number not in FIXTURES:
        raise HTTPException(status_code=404, detail="no such fixture")
    kick_off = datetime(2026, 12, 5, 15, tzinfo=timezone.utc) + timedelta(days=7 * (number // 3))
    return FIXTURES[number] | {"kick_off": kick_off.isoformat()}


def poisson(mean, goals):
    return mean**goals * math.exp(-mean) / math.factorial(goals)


@app.get("/api/fixtures/upcoming")
def upcoming(limit: int = 10):
    return {"generated_at": now(), "fixtures": [fixture_of(number) for number in list(FIXTURES)[: max(limit, 0)]]}


@app.get("/api/fixtures/{number}")
def fixture(number: int):
    return {"generated_at": now(), "fixture": fixture_of(number)}


@app.get("/api/predictions/{number}")
def prediction(number: int):
    match = fixture_of(number)
    (home_attack, home_defence), (away_attack, away_defence) = TEAMS[match["home"]], TEAMS[match["away"]]
    home, away = home_attack * away_defence * HOME_ADVANTAGE, away_attack * home_defence
    # The model itself is slow; this stands for it.
    time.sleep(0.05)
    odds = Counter()
    for goals in range(MOST_GOALS):
        for against in range(MOST_GOALS):
            result = "home" if goals > against else "draw" if goals == against else "away"
            odds[result] += poisson(home, goals) * poisson(away, against)
    rounded = {result: round(share, 3) for result, share in odds.items()}
    return {"generated_at": now(), "fixture": match, "goals": [round(home, 2), round(away, 2)], "odds": rounded}


@app.post("/api/feedback", status_code=201)
def feedback(given: Feedback):
    fixture_of(given.fixture)
    return {"received_at": now(), "rating": given.rating}


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics():
    lines = [f'predictions_responses_total{{code="{code}"}} {number}' for code, number in sorted(answered.items())]
    return "\n".join(["# TYPE predictions_responses_total counter", *lines, ""])
