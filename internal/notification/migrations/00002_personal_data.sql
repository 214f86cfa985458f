-- +goose Up
-- Whose a mail is, for people who ask for their own data: the keyed hash of the subject, or of the pseudonym once
-- the shopper is erased. Null in rows that are older than this column; they go with their time, see personal.go.
alter table delivery add column subject_hash bytea check (length(subject_hash) = 32);
create index delivery_of_subject on delivery (subject_hash, created_at, event_id, template, recipient_hash);
create index delivery_age on delivery (created_at);
