-- +goose Up
-- What the shop's staff did. Each entry holds the hash of the one before it; docs/audit.md says over what.
-- The unique previous_hash keeps the chain from forking, whatever a writer does.
create table audit_entry (
    sequence      bigint      primary key check (sequence > 0),
    id            uuid        not null unique,
    recorded_at   timestamptz not null,
    actor         text        not null,
    roles         text[]      not null,
    procedure     text        not null,
    target        jsonb       not null,
    request_hash  bytea       not null check (length(request_hash) = 32),
    outcome       text        not null check (outcome in ('ATTEMPTED', 'SUCCEEDED', 'FAILED')),
    reason        text        not null,
    action_id     uuid        not null,
    trace_id      text        not null,
    previous_hash bytea       not null unique check (length(previous_hash) = 32),
    hash          bytea       not null check (length(hash) = 32)
);
create index audit_entry_actor on audit_entry (actor, sequence);
create index audit_entry_procedure on audit_entry (procedure, sequence);

-- The last entry's place and hash. Its row's lock puts writers in a line, so that the sequence has no gaps.
create table audit_head (
    one      boolean primary key default true check (one),
    sequence bigint  not null,
    hash     bytea   not null check (length(hash) = 32)
);
insert into audit_head (sequence, hash) values (0, decode(repeat('00', 32), 'hex'));

-- Nobody changes what is written: the context's role, although it owns the table, lacks the right, and the
-- trigger refuses whoever has it.
revoke update, delete, truncate on audit_entry from current_user;
revoke insert, delete, truncate on audit_head from current_user;

-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is only ever added to' using errcode = 'insufficient_privilege';
end $$;
-- +goose StatementEnd
create trigger audit_entry_append_only before update or delete or truncate on audit_entry
    for each statement execute function refuse_change();
create trigger audit_head_stays before insert or delete or truncate on audit_head
    for each statement execute function refuse_change();

-- +goose Down
drop table audit_entry, audit_head;
drop function refuse_change();
