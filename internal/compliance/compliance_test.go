package compliance_test

import (
	"testing"

	"bookworm/internal/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
