-- +goose Up
-- Versions of reviews come from one sequence and not from 1 for each, so that a review that was deleted and
-- written anew never has a version that moderation, or an author, has seen before.
create sequence review_version;

create table review (
    id                uuid        primary key, -- derived from book and subject
    book_id           uuid        not null,
    subject           text        not null,
    stars             smallint    not null check (stars between 1 and 5),
    title             text        not null,
    text              text        not null,
    digest            bytea,                   -- of the folded words, to find the same text elsewhere; null when there are few
    version           bigint      not null,    -- grows with each change of words or stars
    status            text        not null check (status in ('PENDING', 'IN_QUEUE', 'PUBLISHED', 'REJECTED')),
    status_reason     text        not null default '',
    status_at         timestamptz not null default now(),
    verified_purchase boolean     not null,
    helpful_count     integer     not null default 0 check (helpful_count >= 0),
    request_id        uuid        not null,    -- the last request that took effect
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    unique (book_id, subject)
);

-- One for each order of the public list; see sorts in list.go.
create index review_helpful on review (book_id, helpful_count desc, created_at desc, id desc) where status = 'PUBLISHED';
create index review_newest on review (book_id, created_at desc, id desc) where status = 'PUBLISHED';
create index review_best on review (book_id, stars desc, created_at desc, id desc) where status = 'PUBLISHED';
create index review_worst on review (book_id, (-stars) desc, created_at desc, id desc) where status = 'PUBLISHED';
create index review_queue on review (status_at, id) where status = 'IN_QUEUE';
create index review_unsettled on review (id) where status in ('PENDING', 'IN_QUEUE');
create index review_of_subject on review (subject, updated_at desc, id desc);

create table vote (
    review_id  uuid        not null references review on delete cascade,
    subject    text        not null,
    created_at timestamptz not null default now(),
    primary key (review_id, subject)
);

create table report (
    review_id  uuid        not null references review on delete cascade,
    subject    text        not null,
    ground     text        not null check (ground in ('SPAM', 'ABUSE', 'SPOILER', 'PRIVACY', 'OFF_TOPIC')),
    comment    text        not null,
    version    bigint      not null, -- of the review that was reported, or settled
    settled    boolean     not null default false, -- an operator has looked at that version and let it stand
    created_at timestamptz not null default now(),
    primary key (review_id, subject)
);

-- What was asked of a review's process, until the process has taken it: the process is told the id alone, so
-- that no words of people get into its history.
create table request (
    id         uuid        primary key,
    review_id  uuid        not null,
    body       jsonb       not null,
    created_at timestamptz not null default now()
);
create index request_age on request (created_at);
create index request_of_review on request (review_id);

-- How the published reviews rate a book. Changed in the transaction that publishes or hides a review.
create table book_rating (
    book_id      uuid             primary key,
    n1           integer          not null default 0 check (n1 >= 0),
    n2           integer          not null default 0 check (n2 >= 0),
    n3           integer          not null default 0 check (n3 >= 0),
    n4           integer          not null default 0 check (n4 >= 0),
    n5           integer          not null default 0 check (n5 >= 0),
    score        double precision not null default 0,
    version      bigint           not null default 0, -- grows with each change
    told_version bigint           not null default 0  -- the last one that the catalogue is known to have
);

-- What a model made of a book's reviews. The text is empty when the last attempt gave nothing that can be
-- shown: that, too, holds until enough has changed.
create table summary (
    book_id        uuid        primary key,
    text           text        not null,
    source_ids     uuid[]      not null,
    review_count   integer     not null,
    rating_version bigint      not null,
    created_at     timestamptz not null default now()
);
