-- +goose Up
create table orders (
    id             uuid primary key,
    subject        text        not null,
    status         text        not null check (status in ('PLACED', 'CONFIRMED', 'SHIPPED', 'CANCELLED', 'PAYMENT_FAILED', 'EXPIRED')),
    reason         text        not null default '',
    currency       text        not null check (currency ~ '^[A-Z]{3}$'),
    subtotal_minor bigint      not null check (subtotal_minor >= 0),
    shipping_minor bigint      not null check (shipping_minor >= 0),
    tax_minor      bigint      not null check (tax_minor >= 0),
    discount_minor bigint      not null check (discount_minor >= 0),
    total_minor    bigint      not null check (total_minor = subtotal_minor + shipping_minor + tax_minor - discount_minor),
    country        text        not null,
    details        bytea       not null, -- sealed: address, e-mail, name
    fingerprint    bytea       not null,
    basket_version bigint      not null,
    version        bigint      not null default 1,
    created_at     timestamptz not null,
    updated_at     timestamptz not null
);
create index orders_of_subject on orders (subject, created_at desc, id desc);

create table order_line (
    order_id   uuid    not null references orders,
    book_id    uuid    not null,
    title      text    not null,
    isbn13     text    not null,
    quantity   integer not null check (quantity > 0),
    unit_minor bigint  not null check (unit_minor >= 0),
    primary key (order_id, book_id)
);
create index order_line_by_book on order_line (book_id);

-- The log of an order; replaying it gives the row (invariant O1). Append-only.
create table order_event (
    order_id uuid        not null references orders,
    seq      bigint      not null,
    status   text        not null,
    reason   text        not null default '',
    at       timestamptz not null,
    primary key (order_id, seq)
);

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end $$;
-- +goose StatementEnd
create trigger order_event_append_only before update or delete on order_event
    for each row execute function refuse_change();
