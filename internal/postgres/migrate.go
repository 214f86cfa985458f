package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Schema is what a context keeps in the database.
type Schema struct {
	// Name is the schema's name, and after "bookworm_" its role's.
	Name string
	// Migrations holds the folder migrations with the context's SQL files in
	// the form of goose, for example migrations/00001_books.sql.
	Migrations fs.FS
	// Extensions are the extensions of PostgreSQL that the migrations use, made in
	// the schema. They must be trusted ones, such as pg_trgm, or the login a
	// superuser.
	Extensions []string
}

// migrateLock is the advisory lock that lets one migration at a time run in a
// database.
const migrateLock = 0x626f6f6b776f726d // "bookworm"

// Migrate brings the schemas up to date: it makes the role (without login, and
// granted to the login of the URL) and the schema where they are missing, and
// runs the migrations that did not run yet, each in a transaction, as that
// role. The version table is in the schema. Migrate may run at any time and in
// several processes at once; the later ones wait and find nothing left to do.
//
// The login must be a superuser, or may create roles and make schemas in the
// database.
func Migrate(ctx context.Context, adminURL string, schemas ...Schema) (err error) {
	config, err := pgx.ParseConfig(adminURL)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	// The end of the session frees the lock, also when ctx is done.
	defer func() {
		if closing := conn.Close(context.WithoutCancel(ctx)); closing != nil && err == nil {
			err = fmt.Errorf("migrate: %w", closing)
		}
	}()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrateLock)); err != nil {
		return fmt.Errorf("lock migrations: %w", err)
	}
	for _, schema := range schemas {
		if !schemaName.MatchString(schema.Name) {
			return fmt.Errorf("migrate: %q is no name for a schema", schema.Name)
		}
		if err := provision(ctx, conn, schema.Name); err != nil {
			return fmt.Errorf("make schema %s: %w", schema.Name, err)
		}
		for _, extension := range schema.Extensions {
			_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE EXTENSION IF NOT EXISTS %s SCHEMA %s`, pgx.Identifier{extension}.Sanitize(), schema.Name))
			if err != nil {
				return fmt.Errorf("make extension %s: %w", extension, err)
			}
		}
		if err := migrate(ctx, config, schema); err != nil {
			return fmt.Errorf("migrate schema %s: %w", schema.Name, err)
		}
	}
	return nil
}

// provision makes the role and the schema.
func provision(ctx context.Context, conn *pgx.Conn, schema string) error {
	role := Role(schema)
	// Roles belong to the whole server, the lock to one database: another
	// database's migration may make the same role at the same moment.
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		DO $$ BEGIN
			IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '%[1]s') THEN
				CREATE ROLE %[1]s NOLOGIN;
			END IF;
		EXCEPTION WHEN duplicate_object OR unique_violation THEN
			NULL;
		END $$`, role))
	if err != nil {
		return fmt.Errorf("create role %s: %w", role, err)
	}
	// A superuser has every role. From PostgreSQL 16 on, whoever makes a role may
	// grant it but has it only once it is granted.
	_, err = conn.Exec(ctx, fmt.Sprintf(`
		DO $$ BEGIN
			IF NOT pg_has_role(current_user, '%[1]s', 'USAGE') THEN
				GRANT %[1]s TO CURRENT_USER;
			END IF;
		EXCEPTION WHEN unique_violation THEN
			NULL;
		END $$`, role))
	if err != nil {
		return fmt.Errorf("grant role %s: %w", role, err)
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(`
		CREATE SCHEMA IF NOT EXISTS %[1]s AUTHORIZATION %[2]s;
		REVOKE ALL ON SCHEMA %[1]s FROM PUBLIC;
		REVOKE CREATE ON SCHEMA public FROM PUBLIC`, schema, role))
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeInsufficientPrivilege {
		return fmt.Errorf("create schema (the login must own the database): %w", err)
	}
	if err != nil {
		return fmt.Errorf("create schema: %w", err)
	}
	return nil
}

const codeInsufficientPrivilege = "42501"

// migrate runs the migrations of one schema as its role.
func migrate(ctx context.Context, config *pgx.ConnConfig, schema Schema) (err error) {
	files, err := fs.Sub(schema.Migrations, "migrations")
	if err != nil {
		return fmt.Errorf("open migrations: %w", err)
	}
	config = config.Copy()
	actAs(config, schema.Name)
	db := stdlib.OpenDB(*config)
	defer func() {
		if closing := db.Close(); closing != nil && err == nil {
			err = fmt.Errorf("close database: %w", closing)
		}
	}()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithTableName("migration"))
	if err != nil {
		return fmt.Errorf("read migrations/*.sql: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("run migrations: %w", err)
	}
	return nil
}
