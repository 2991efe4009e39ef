"""The product API: a catalogue, and what a basket costs."""

import asyncio
from decimal import Decimal

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

app = FastAPI(title="Products", version="2.3.0")

PRODUCTS = {
    number: {"id": number, "name": f"{kind} {size}", "price": str(Decimal(number * 7 % 90 + 5) + Decimal("0.95"))}
    for number, (kind, size) in enumerate(
        ((kind, size) for kind in ("Bolt", "Bracket", "Hinge", "Washer") for size in ("S", "M", "L", "XL")), start=1
    )
}


class Item(BaseModel):
    product: int
    count: int = Field(ge=1, le=1000)


class Basket(BaseModel):
    items: list[Item] = Field(max_length=200)


def product_of(number):
    if number not in PRODUCTS:
        raise HTTPException(status_code=404, detail=f"no product {number}")
    return PRODUCTS[number]


@app.get("/")
async def root():
    return {"name": app.title, "version": app.version}


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/products")
async def products(offset: int = Query(0, ge=0), limit: int = Query(10, ge=1, le=100)):
    # What the database takes.
    await asyncio.sleep(0.01)
    return {"total": len(PRODUCTS), "products": list(PRODUCTS.values())[offset : offset + limit]}


@app.get("/products/{number}")
async def product(number: int):
    await asyncio.sleep(0.005)
    return product_of(number)


@app.post("/baskets/price")
async def price(basket: Basket):
    total = sum((Decimal(product_of(item.product)["price"]) * item.count for item in basket.items), Decimal(0))
    return {"total": str(total)}
