-- +goose Up
-- Nobody is named here: subject_hash is a keyed hash of the subject (see privacy.go).

-- A shopper's key seals what histories and rows hold of them; without it they say nothing. A key that was
-- destroyed keeps its row without the key, as long as the request that destroyed it is kept.
create table shopper_key (
    id           uuid        primary key,
    subject_hash bytea       not null check (length(subject_hash) = 32),
    wrapped      bytea,               -- the key, sealed with the deployment's own; null once destroyed
    created_at   timestamptz not null default now(),
    destroyed_at timestamptz,
    check ((wrapped is null) = (destroyed_at is not null))
);
create unique index shopper_key_current on shopper_key (subject_hash) where wrapped is not null;
create index shopper_key_destroyed on shopper_key (destroyed_at) where wrapped is null;

-- A person's request for their data, or for its end.
create table data_request (
    id           uuid        primary key,
    subject_hash bytea       not null check (length(subject_hash) = 32),
    kind         text        not null check (kind in ('EXPORT', 'ERASURE')),
    state        text        not null check (state in ('RUNNING', 'WAITING', 'DONE', 'EXPIRED')),
    steps        jsonb       not null, -- how far each context is, in the order in which they are asked
    pseudonym    text,                 -- what stands in the subject's place; null when done, so that nothing leads from one to the other
    proof        text        not null default '',
    requested_at timestamptz not null default now(),
    completed_at timestamptz,
    expires_at   timestamptz,
    check ((completed_at is null) = (state in ('RUNNING', 'WAITING'))),
    check (pseudonym is null or completed_at is null)
);
create index data_request_of_subject on data_request (subject_hash, id desc);
create unique index data_request_under_way on data_request (subject_hash, kind) where completed_at is null;
create index data_request_expiring on data_request (expires_at) where state = 'DONE';
create index data_request_completed on data_request (completed_at);

-- What an export collected, a context's page at a time.
create table export_page (
    request_id uuid    not null references data_request on delete cascade,
    context    text    not null,
    page       integer not null check (page >= 0),
    size       bigint  not null, -- of what is sealed, in bytes of JSON
    sealed     bytea   not null, -- a []Section, with the shopper's key
    primary key (request_id, context, page)
);

-- +goose Down
drop table export_page;
drop table data_request;
drop table shopper_key;
