-- +goose Up
-- For people who ask for their own data, and for what is deleted when its time is over. See personal.go.
create index vote_of_subject on vote (subject, review_id);
create index report_of_subject on report (subject, review_id);
create index report_settled on report (created_at) where settled;
create index review_rejected on review (status_at) where status = 'REJECTED';
