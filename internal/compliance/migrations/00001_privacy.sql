-- +goose Up
-- A shopper's key seals what histories and rows hold of them; without it they say nothing. A key that was
-- destroyed keeps its row without the key, so that it is known to have been one.
create table shopper_key (
    id           uuid        primary key,
    subject      text        not null,
    wrapped      bytea,               -- the key, sealed with the deployment's own; null once destroyed
    created_at   timestamptz not null default now(),
    destroyed_at timestamptz,
    check ((wrapped is null) = (destroyed_at is not null))
);
create unique index shopper_key_current on shopper_key (subject) where wrapped is not null;

-- +goose Down
drop table shopper_key;
