-- +goose Up
-- The pseudonym of an erased shopper, and after the years of the law nobody (''), stands in a payment's subject's
-- place. See personal.go.
create index payment_of_subject on payment (subject, created_at desc, order_id desc);
create index payment_with_owner on payment (created_at) where subject <> '';
create index provider_event_age on provider_event (received_at);
