"""An education platform: courses, what students hand in, and the reports of their teachers."""

import asyncio
import hashlib
import os
from collections import Counter
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

app = FastAPI(title="Courses", docs_url=None, redoc_url=None)
app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")

COURSES = {
    number: {"id": number, "title": title, "students": students}
    for number, (title, students) in enumerate([("Algebra", 31), ("Botany", 18), ("Drawing", 24), ("History", 27)], 1)
}
# How long the database takes for the report of a course.
REPORT_SECONDS = float(os.environ.get("REPORT_SECONDS", "0.5"))
answered = Counter()


@app.middleware("http")
async def count(request: Request, call_next):
    response = await call_next(request)
    answered[response.status_code] += 1
    return response


def course_of(number):
    if number not in COURSES:
        raise HTTPException(status_code=404, detail="no such course")
    return COURSES[number]


@app.get("/", response_class=HTMLResponse)
async def index():
    items = "".join(f"<li>{course['title']}</li>" for course in COURSES.values())
    style = '<link rel="stylesheet" href="/static/courses.css">'
    return f"<!doctype html>\n<title>Courses</title>\n{style}\n<h1>Courses</h1>\n<ul>{items}</ul>\n"


@app.get("/api/courses")
async def courses():
    return {"courses": list(COURSES.values())}


@app.get("/api/courses/{number}")
async def course(number: int):
    return course_of(number)


@app.get("/api/courses/{number}/report")
async def report(number: int):
    found = course_of(number)
    await asyncio.sleep(REPORT_SECONDS)
    return {"course": found["title"], "handed_in": found["students"] - 3, "missing": 3}


@app.post("/api/courses/{number}/submissions", status_code=201)
async def submit(number: int, file: UploadFile):
    course_of(number)
    digest = hashlib.sha256()
    while block := await file.read(65536):
        digest.update(block)
    return {"name": file.filename, "length": file.size, "sha256": digest.hexdigest()}


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/metrics", response_class=PlainTextResponse)
async def metrics():
    lines = [f'courses_responses_total{{code="{code}"}} {number}' for code, number in sorted(answered.items())]
    return "\n".join(["# TYPE courses_responses_total counter", *lines, ""])
