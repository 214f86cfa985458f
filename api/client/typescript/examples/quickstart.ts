/**
 * Finds a book, buys it and talks about it.
 *
 *   BOOKWORM_GATEWAY_URL=http://127.0.0.1:8080 BOOKWORM_TOKEN=$(make token USER=alice) npm run quickstart
 */
import { ask, chatv1, createBookWorm, fieldsOf, orderingv1, reasonOf, type typev1, withIdempotencyKey } from "../src/index.js";

const bookworm = createBookWorm({
  baseUrl: process.env["BOOKWORM_GATEWAY_URL"] ?? "http://127.0.0.1:8080",
  token: () => process.env["BOOKWORM_TOKEN"],
});

// Browse.
const { books } = await bookworm.catalog.listBooks({ category: "science-fiction", inStock: true, pageSize: 3 });
const book = books[0];
if (!book) {
  throw new Error("the shop has no science fiction");
}
console.log(`found    "${book.title}" by ${book.authors.join(", ")}, ${format(book.price)}`);

// Fill the basket, with nothing of an earlier visit in it.
await bookworm.basket.clearBasket({});
const { basket } = await bookworm.basket.setItem({ bookId: book.id, quantity: 1 });
console.log(`basket   ${basket?.items.length} book, ${format(basket?.subtotal)}`);

// What would it cost?
const { quote } = await bookworm.orders.quoteOrder({ countryCode: "US" });
console.log(`quote    ${format(quote?.total)} with shipping and tax`);

// An error says why, and which fields.
try {
  await bookworm.orders.quoteOrder({ countryCode: "usa" });
} catch (error) {
  console.log(`refused  ${reasonOf(error)}: ${fieldsOf(error).map(({ field, problem }) => `${field} ${problem}`).join("; ")}`);
}

// Order at that price and no other. The same key with the same request is the same order.
const key = crypto.randomUUID();
const request = {
  paymentMethod: "pm_card_visa",
  basketEtag: quote?.basketEtag ?? "",
  ...(quote?.total && { expectedTotal: quote.total }),
  shippingAddress: {
    recipient: "Alice Appleby", line1: "1 Main Street", city: "Springfield", region: "IL", postalCode: "62701", countryCode: "US",
  },
};
const { order: placed } = await bookworm.orders.placeOrder(request, withIdempotencyKey(key));
const { order: again } = await bookworm.orders.placeOrder(request, withIdempotencyKey(key));
if (!placed || again?.id !== placed.id) {
  throw new Error("the same request made another order");
}
console.log(`order    ${placed.id} is ${orderingv1.Order_Status[placed.status]}`);

// Payment and confirmation follow by themselves.
const confirmed = await settled(placed.id);
console.log(`order    ${confirmed.id} is ${orderingv1.Order_Status[confirmed.status]}`);

// Ask the bookseller; the answer arrives in pieces.
const sources: string[] = [];
process.stdout.write("answer   ");
for await (const { event } of ask(bookworm, `Which books are like "${book.title}"?`)) {
  switch (event.event.case) {
    case "delta":
      process.stdout.write(event.event.value);
      break;
    case "citation":
      sources.push(`source   [${event.event.value.number}] ${event.event.value.title}`);
      break;
    case "done":
      console.log(["", ...sources, `done     ${chatv1.Done_Outcome[event.event.value.outcome]}`].join("\n"));
  }
}

/** Waits until an order is no longer on its way to be paid. */
async function settled(id: string): Promise<orderingv1.Order> {
  for (;;) {
    const { order } = await bookworm.orders.getOrder({ id });
    if (order && order.status !== orderingv1.Order_Status.PLACED) {
      return order;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** An amount for people: minor units become the currency's own. */
function format(money: typev1.Money | undefined): string {
  if (!money) {
    return "";
  }
  const currency = new Intl.NumberFormat("en", { style: "currency", currency: money.currencyCode });
  const digits = currency.resolvedOptions().maximumFractionDigits ?? 2;
  return currency.format(Number(money.amountMinor) / 10 ** digits);
}
