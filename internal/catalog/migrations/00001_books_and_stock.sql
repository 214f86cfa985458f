-- +goose Up

CREATE TABLE book (
    id               uuid PRIMARY KEY,
    isbn13           text NOT NULL UNIQUE CHECK (isbn13 ~ '^[0-9]{13}$'),
    title            text NOT NULL CHECK (title <> ''),
    subtitle         text NOT NULL,
    authors          text[] NOT NULL,
    description      text NOT NULL,
    publisher        text NOT NULL,
    publication_year int NOT NULL,
    language         text NOT NULL,
    page_count       int NOT NULL CHECK (page_count >= 0),
    categories       text[] NOT NULL,
    price_minor      bigint NOT NULL CHECK (price_minor >= 0),
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    archived_at      timestamptz,
    -- Grows with each change of the row.
    version          bigint NOT NULL DEFAULT 1,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    -- Without case, accents and punctuation, written by the store: the order of
    -- the list by title (byte by byte, so that no upgrade of a locale moves a
    -- page), what an author is found by, and what words are found in.
    title_key        text COLLATE "C" NOT NULL,
    author_keys      text[] NOT NULL,
    search_text      text NOT NULL,
    search           tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('simple', search_text)) STORED
);

-- One index for each order of the list; it holds what is on sale.
CREATE INDEX book_by_title ON book (title_key, id) WHERE archived_at IS NULL;
CREATE INDEX book_by_price ON book (price_minor, id) WHERE archived_at IS NULL;
CREATE INDEX book_by_year ON book (publication_year, id) WHERE archived_at IS NULL;
CREATE INDEX book_categories ON book USING gin (categories);
CREATE INDEX book_authors ON book USING gin (author_keys);
CREATE INDEX book_search ON book USING gin (search);

-- Copies in the house, and those of them set aside for orders.
CREATE TABLE stock (
    book_id  uuid PRIMARY KEY REFERENCES book,
    on_hand  int NOT NULL CHECK (on_hand >= 0),
    reserved int NOT NULL DEFAULT 0 CHECK (reserved >= 0 AND reserved <= on_hand)
);

-- Why on_hand is what it is. Append-only: on_hand is opening + received -
-- shipped + returned.
CREATE TABLE stock_movement (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    book_id     uuid NOT NULL REFERENCES book,
    kind        text NOT NULL CHECK (kind IN ('opening', 'received', 'shipped', 'returned')),
    quantity    int NOT NULL CHECK (quantity >= 0),
    -- What it came from, for example the order's id; a movement happens once.
    reference   text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (book_id, kind, reference)
);

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON stock_movement
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- An order's stock. held -> committed -> shipped; held or committed -> released.
-- A released row without lines bars an order whose hold was given back before
-- it arrived. Rows stay.
CREATE TABLE hold (
    hold_id   uuid PRIMARY KEY,
    state      text NOT NULL CHECK (state IN ('held', 'committed', 'released', 'shipped')),
    expires_at timestamptz CHECK (state = 'released' OR expires_at IS NOT NULL),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX hold_expiry ON hold (expires_at) WHERE state = 'held';

-- What was held, as the book was at that moment: the order's prices.
CREATE TABLE hold_line (
    hold_id         uuid REFERENCES hold,
    book_id          uuid REFERENCES book,
    quantity         int NOT NULL CHECK (quantity > 0),
    title            text NOT NULL,
    isbn13           text NOT NULL,
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
    currency         text NOT NULL,
    PRIMARY KEY (hold_id, book_id)
);

-- +goose Down
DROP TABLE hold_line, hold, stock_movement, stock, book;
DROP FUNCTION refuse_change;
