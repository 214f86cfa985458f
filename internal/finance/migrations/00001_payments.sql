-- +goose Up
create table payment (
    order_id         uuid primary key,
    subject          text        not null,
    intent_id        text unique,
    status           text        not null check (status in ('PENDING', 'REQUIRES_ACTION', 'AUTHORIZED', 'CAPTURED', 'DECLINED', 'VOIDED', 'REFUNDED')),
    currency         text        not null check (currency ~ '^[A-Z]{3}$'),
    amount_minor     bigint      not null check (amount_minor > 0),
    authorized_minor bigint      not null default 0,
    captured_minor   bigint      not null default 0,
    refunded_minor   bigint      not null default 0,
    decline_code     text        not null default '',
    action_url       text        not null default '',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    constraint m2 check (0 <= refunded_minor and refunded_minor <= captured_minor
        and captured_minor <= authorized_minor and authorized_minor <= amount_minor)
);

-- Double entry (invariant M1). key is the effect's idempotency key.
create table ledger_entry (
    id           bigint generated always as identity primary key,
    order_id     uuid        not null references payment,
    key          text        not null,
    account      text        not null check (account in ('provider', 'sales')),
    currency     text        not null,
    debit_minor  bigint      not null default 0 check (debit_minor >= 0),
    credit_minor bigint      not null default 0 check (credit_minor >= 0),
    at           timestamptz not null default now(),
    unique (key, account),
    check ((debit_minor = 0) <> (credit_minor = 0))
);
create index ledger_of_order on ledger_entry (order_id);

-- What the provider told us, each event once.
create table provider_event (
    provider    text        not null,
    event_id    text        not null,
    type        text        not null,
    order_id    uuid,
    received_at timestamptz not null default now(),
    primary key (provider, event_id)
);

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name;
end $$;

create function require_balance() returns trigger language plpgsql as $$
begin
    if (select sum(debit_minor) <> sum(credit_minor) from ledger_entry where key = new.key) then
        raise exception 'ledger entries of % do not balance', new.key;
    end if;
    return null;
end $$;
-- +goose StatementEnd
create trigger ledger_append_only before update or delete on ledger_entry
    for each row execute function refuse_change();
create constraint trigger ledger_balances after insert on ledger_entry
    deferrable initially deferred for each row execute function require_balance();
