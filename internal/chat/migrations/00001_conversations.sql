-- +goose Up
create table conversation (
    id         uuid primary key,
    subject    text        not null,
    title      text        not null,
    summary    text        not null default '', -- of the turns up to summarized, for the model
    summarized bigint      not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index conversation_of_subject on conversation (subject, updated_at desc, id desc);

create table turn (
    id              uuid primary key,
    conversation_id uuid        not null references conversation on delete cascade,
    subject         text        not null,
    number          bigint      not null, -- in its conversation, from 1
    fingerprint     bytea       not null,
    question        text        not null,
    answer          text        not null default '',
    citations       json        not null default '[]',
    outcome         text check (outcome in ('ANSWERED', 'FALLBACK', 'REFUSED', 'CANCELLED', 'FAILED')), -- null while it runs
    input_tokens    bigint      not null default 0,
    output_tokens   bigint      not null default 0,
    reserved_tokens bigint      not null, -- of the day's budget, while it runs
    owner           uuid        not null, -- the engine that runs it
    lease_until     timestamptz not null,
    watched_until   timestamptz not null, -- until when another replica keeps it going for a client
    cancelled       boolean     not null default false,
    created_at      timestamptz not null default now(),
    ended_at        timestamptz,
    unique (conversation_id, number),
    check ((outcome is null) = (ended_at is null))
);
-- A conversation answers one message at a time.
create unique index turn_running on turn (conversation_id) where outcome is null;
create index turn_of_owner on turn (owner) where outcome is null;
create index turn_of_subject on turn (subject) where outcome is null;

create table turn_event (
    turn_id  uuid   not null references turn on delete cascade,
    sequence bigint not null check (sequence > 0),
    event    json   not null,
    primary key (turn_id, sequence)
);

-- What a shopper's turns have used, by day (UTC). It outlives the conversations.
create table usage (
    subject       text   not null,
    day           date   not null,
    turns         bigint not null default 0,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    cost_micros   bigint not null default 0, -- millionths of a US dollar
    primary key (subject, day)
);

-- What the bookseller would do if the shopper agrees: put copies of a book into
-- the basket. etag and target are the basket that it was claimed for and the
-- number of copies after it; whoever claimed it has it for themselves until
-- held_until.
create table action (
    id              uuid primary key,
    conversation_id uuid        not null references conversation on delete cascade,
    turn_id         uuid        not null,
    subject         text        not null,
    book_id         uuid        not null,
    quantity        integer     not null check (quantity between 1 and 99),
    text            text        not null,
    state           text        not null default 'PROPOSED' check (state in ('PROPOSED', 'CLAIMED', 'DONE', 'DROPPED')),
    etag            text        not null default '',
    target          integer     not null default 0,
    held_until      timestamptz not null default now(),
    result          text        not null default '',
    created_at      timestamptz not null default now(),
    expires_at      timestamptz not null
);
create index action_of_conversation on action (conversation_id);
