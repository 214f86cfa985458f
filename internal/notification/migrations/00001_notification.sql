-- +goose Up
create table preferences (
    subject          text        primary key,
    order_emails     boolean     not null,
    marketing_emails boolean     not null,
    version          bigint      not null default 1,
    updated_at       timestamptz not null default now()
);

-- One row for each mail the shop meant to send. The primary key is what makes
-- it at most one (invariant N3). The recipient is a keyed hash: the table says who
-- got a mail only to somebody who has the address and the key.
create table delivery (
    recipient_hash bytea       not null check (length(recipient_hash) = 32),
    template       text        not null,
    event_id       text        not null,
    state          text        not null check (state in ('sending', 'sent', 'failed', 'unknown', 'suppressed')),
    attempts       integer     not null check (attempts >= 0), -- claims so far
    message_id     text        not null, -- the same for every attempt
    last_error     text        not null default '', -- class and codes, nothing personal
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    primary key (recipient_hash, template, event_id)
);

-- What operators look for: everything that has not ended well.
create index delivery_unsettled on delivery (updated_at) where state in ('sending', 'failed', 'unknown');
