"""Makes what the requests can be about, and prints its ids as JSON."""

import json
import sys
import time
import uuid

import requests

url, alice, bob = sys.argv[1:]


def call(method, path, token, body=None, **headers):
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())} | headers
    answer = requests.request(method, url + path, headers=headers, json=body, timeout=30)
    answer.raise_for_status()
    return answer


book = requests.get(f"{url}/api/v1/books?in_stock=true&page_size=1", timeout=30).json()["books"][0]["id"]


def bought(token):
    call("PUT", f"/api/v1/basket/items/{book}", token, {"quantity": 1})
    address = {"recipient": "A", "line1": "1 Way", "city": "C", "postal_code": "1", "country_code": "US"}
    order = call("POST", "/api/v1/orders", token, {"shipping_address": address, "payment_method": "pm_card_visa"}).json()["id"]
    for _ in range(300):
        if call("GET", f"/api/v1/orders/{order}", token).json()["status"] == "CONFIRMED":
            return order
        time.sleep(0.1)
    raise SystemExit(f"order {order} is not confirmed")


order = bought(alice)
bought(bob)
# Alice's review is her own; Bob's is one to vote for.
call("PUT", f"/api/v1/books/{book}/reviews/mine", alice, {"stars": 4, "title": "Good", "text": "I liked it."})
review = call("PUT", f"/api/v1/books/{book}/reviews/mine", bob, {"stars": 5, "title": "Great", "text": "I loved it."}).json()["id"]

events = call("POST", "/api/v1/chat/messages", alice, {"text": "Do you have books about whales?"}).text
said = json.loads(next(line for line in events.splitlines() if line.startswith("data: "))[6:])

print(json.dumps({
    "/books/{id}": book, "/books/{book_id}": book, "/items/{book_id}": book, "/orders/{id}": order, "/orders/{order_id}": order,
    "/reviews/{review_id}": review, "/conversations/{conversation_id}": said["conversation_id"], "/turns/{turn_id}": said["turn_id"],
}))
