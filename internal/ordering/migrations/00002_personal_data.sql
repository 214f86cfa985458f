-- +goose Up
-- An order's details are emptied when their time is over or their shopper is erased; the pseudonym, and after
-- the years of the law nobody (''), stands in the subject's place. See personal.go.
create index orders_with_details on orders (created_at) where details <> '';
create index orders_with_owner on orders (created_at) where subject <> '';

-- A reason is a stable upper-case word, except where an operator typed something else. An erasure puts a word in
-- the place of what was typed; the log takes that change and no other, so that it still replays to the row (O1).
-- +goose StatementBegin
create or replace function refuse_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.reason !~ '^[A-Z_]*$' and new.reason = 'ERASED'
        and (new.order_id, new.seq, new.status, new.at) = (old.order_id, old.seq, old.status, old.at) then
        return new;
    end if;
    raise exception '% is append-only', tg_table_name;
end $$;
-- +goose StatementEnd
