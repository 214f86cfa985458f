-- +goose Up

-- What reviewers think of a book: what the rating context says of it, in the
-- newest version that arrived.
CREATE TABLE book_rating (
    book_id uuid PRIMARY KEY REFERENCES book,
    version bigint NOT NULL CHECK (version > 0),
    -- Published reviews with 1 to 5 stars.
    stars   int[] NOT NULL CHECK (cardinality(stars) = 5 AND 0 <= ALL (stars)),
    -- Bayesian average; 0 without a review.
    score   float8 NOT NULL CHECK (score BETWEEN 0 AND 5)
);
CREATE INDEX book_rating_by_score ON book_rating (score DESC, book_id);

-- A change that was made, so that it is made once. The fingerprint is that of the
-- request which created the book.
CREATE TABLE book_change (
    change_id   uuid PRIMARY KEY,
    book_id     uuid NOT NULL REFERENCES book,
    version     bigint NOT NULL, -- of the book, after it
    fingerprint bytea,
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- Text as its words are compared: lower case, without accents, apostrophes and
-- points, other punctuation as spaces. The same as the store's own fold, apart from
-- scripts without upper and lower case.
-- +goose StatementBegin
CREATE FUNCTION plain(t text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT translate(
        replace(replace(replace(
            lower(regexp_replace(normalize(t, NFKD), '[\u0300-\u036f]', '', 'g')),
            'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
        'øđł-_/\@:&<>+=#*|!()%''’.', 'odl' || repeat(' ', 18)) -- those without a partner vanish
$$;

-- The stems of a book's words, weighted: title and authors A, subtitle B,
-- categories C, description D.
CREATE FUNCTION stems(config regconfig, title text, authors text[], subtitle text, categories text[], description text)
    RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT setweight(to_tsvector(config, catalog.plain(title)), 'A')
        || setweight(to_tsvector(config, catalog.plain(array_to_string(authors, ' '))), 'A')
        || setweight(to_tsvector(config, catalog.plain(subtitle)), 'B')
        || setweight(to_tsvector(config, catalog.plain(array_to_string(categories, ' '))), 'C')
        || setweight(to_tsvector(config, catalog.plain(description)), 'D')
$$;

-- Every book is found by English stems, because the shop describes in English; one
-- in another language also by that language's.
CREATE FUNCTION book_document(language text, title text, authors text[], subtitle text, categories text[], description text)
    RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT catalog.stems('english', title, authors, subtitle, categories, description)
        || CASE lower(split_part(language, '-', 1))
               WHEN 'es' THEN catalog.stems('spanish', title, authors, subtitle, categories, description)
               WHEN 'fr' THEN catalog.stems('french', title, authors, subtitle, categories, description)
               WHEN 'de' THEN catalog.stems('german', title, authors, subtitle, categories, description)
               ELSE ''
           END
$$;
-- +goose StatementEnd

ALTER TABLE book ADD COLUMN document tsvector NOT NULL
    GENERATED ALWAYS AS (book_document(language, title, authors, subtitle, categories, description)) STORED;
CREATE INDEX book_document ON book USING gin (document);
-- For misspelt words: search_text is the ISBN, title, subtitle and authors.
CREATE INDEX book_trigrams ON book USING gin (search_text gin_trgm_ops);

-- The collections of the search index: the one that answers, and the one that is
-- being built beside it.
CREATE TABLE search_index (
    collection     text PRIMARY KEY,
    state          text NOT NULL UNIQUE CHECK (state IN ('building', 'live')),
    -- Model and dimension of its vectors.
    embedding      text NOT NULL,
    -- Mean number of tokens of a book; part of every vector of words in it.
    average_length float8 NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now()
);

-- What a collection has not got yet. Rows come in the transaction of the change, so
-- that no change is lost; they go when the collection has it. Without references:
-- that to book would make a change of stock wait for one of the book, and that to
-- search_index would fail it when the collection is given up in the same moment.
CREATE SEQUENCE index_revision;
CREATE TABLE index_pending (
    collection    text NOT NULL,
    book_id       uuid NOT NULL,
    since         timestamptz NOT NULL DEFAULT now(),
    -- Another number with each change, never the same again: whoever has indexed one
    -- revision takes away no other.
    revision      bigint NOT NULL DEFAULT nextval('index_revision'),
    -- Whether the text may have changed, and not only price, stock or rating.
    text_changed  boolean NOT NULL,
    -- Until then one writer has it, so that two never write a book at the same time
    -- and the older one last.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (collection, book_id)
);
CREATE INDEX index_pending_order ON index_pending (collection, since);

-- +goose StatementBegin
CREATE FUNCTION mark_pending(book uuid, text_changed boolean) RETURNS void LANGUAGE sql AS $$
    INSERT INTO catalog.index_pending (collection, book_id, text_changed) SELECT collection, $1, $2 FROM catalog.search_index
    ON CONFLICT (collection, book_id) DO UPDATE
    SET revision = nextval('catalog.index_revision'), text_changed = index_pending.text_changed OR excluded.text_changed
$$;

CREATE FUNCTION book_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM catalog.mark_pending(NEW.id, TG_OP = 'INSERT'
        OR (NEW.title, NEW.subtitle, NEW.authors, NEW.categories, NEW.description, NEW.language)
        IS DISTINCT FROM (OLD.title, OLD.subtitle, OLD.authors, OLD.categories, OLD.description, OLD.language));
    RETURN NULL;
END $$;

CREATE FUNCTION book_fact_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM catalog.mark_pending(NEW.book_id, false);
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER book_changed AFTER INSERT OR UPDATE ON book FOR EACH ROW EXECUTE FUNCTION book_changed();
CREATE TRIGGER rating_changed AFTER INSERT OR UPDATE ON book_rating FOR EACH ROW EXECUTE FUNCTION book_fact_changed();
-- The index knows whether there is a copy, not how many: most orders change nothing.
CREATE TRIGGER availability_changed AFTER UPDATE ON stock FOR EACH ROW
    WHEN ((OLD.on_hand > OLD.reserved) IS DISTINCT FROM (NEW.on_hand > NEW.reserved))
    EXECUTE FUNCTION book_fact_changed();

-- +goose Down
DROP TRIGGER availability_changed ON stock;
DROP TRIGGER book_changed ON book;
DROP TABLE book_rating, book_change;
DROP FUNCTION book_changed, book_fact_changed, mark_pending;
DROP TABLE index_pending, search_index;
DROP SEQUENCE index_revision;
ALTER TABLE book DROP COLUMN document;
DROP INDEX book_trigrams;
DROP FUNCTION book_document, stems, plain;
