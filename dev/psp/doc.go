// Package psp is a stateful stand-in for the part of Stripe's HTTP API that the
// shop uses: payment intents, refunds, charges, events and signed webhooks.
//
// It speaks the wire format of github.com/stripe/stripe-go/v85, so the shop runs
// its production client against it. The same conformance suite runs against the
// stand-in and, when STRIPE_TEST_SECRET_KEY and STRIPE_TEST_BASE_URL are set,
// against Stripe's test mode.
//
// What differs from Stripe, on purpose:
//   - A test payment method keeps its name (pm_card_visa); Stripe answers with
//     the id of a fresh payment method.
//   - Search sees a write at once; Stripe's search may lag by a minute.
//   - Idempotency keys are kept for as long as the data folder.
//   - Webhook events wait until an endpoint is set; Stripe drops those that
//     happened before.
//   - Only the events that the shop subscribes to exist.
package psp
