-- +goose Up
-- The events of a turn go a while after its end; what was said stays in the turn. See personal.go.
alter table turn add column eventless boolean not null default false;
create index turn_with_events on turn (ended_at) where outcome is not null and not eventless;
create index conversation_age on conversation (updated_at);
-- Usage outlives its shopper: under the pseudonym of one who was erased, and in the end under nobody ('').
create index usage_with_owner on usage (day) where subject <> '';
