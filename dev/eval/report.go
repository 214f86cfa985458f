package eval

import (
	"fmt"
	"slices"
	"strings"
)

// Row is how well one leg answers the queries of one stratum, or of all.
type Row struct {
	Stratum Stratum // Total for all
	Leg     Leg
	Queries int

	Recall1, Recall10, MRR, NDCG10 Estimate
}

// Total is the row of all strata together.
const Total Stratum = "total"

// rows sums answers up, by stratum in the order of Strata and then in total.
func rows(answers map[Leg][]Answer) []Row {
	var table []Row
	for _, stratum := range append(slices.Clip(Strata), Total) {
		for _, leg := range Legs {
			var measured []Measures
			for _, a := range answers[leg] {
				if stratum == Total || a.Query.Stratum == stratum {
					measured = append(measured, a.Measures)
				}
			}
			if len(measured) > 0 {
				table = append(table, summarize(stratum, leg, measured))
			}
		}
	}
	return table
}

func summarize(stratum Stratum, leg Leg, measured []Measures) Row {
	estimate := func(of func(Measures) float64) Estimate {
		values := make([]float64, len(measured))
		for i, m := range measured {
			values[i] = of(m)
		}
		return bootstrap(values)
	}
	return Row{
		Stratum: stratum, Leg: leg, Queries: len(measured),
		Recall1:  estimate(func(m Measures) float64 { return m.Recall1 }),
		Recall10: estimate(func(m Measures) float64 { return m.Recall10 }),
		MRR:      estimate(func(m Measures) float64 { return m.MRR }),
		NDCG10:   estimate(func(m Measures) float64 { return m.NDCG10 }),
	}
}

func find(table []Row, stratum Stratum, leg Leg) Row {
	for _, r := range table {
		if r.Stratum == stratum && r.Leg == leg {
			return r
		}
	}
	return Row{}
}

// Talk is how truthfully the bookseller answered.
type Talk struct {
	// Unanswerable questions, and those of them that were answered with no citation
	// and with the word that the shop does not have it.
	Unanswerable, Abstained int
	// Answerable questions, and those of them that cite at least one book.
	Answerable, Cited int
	// Citations in the answers, and those whose book supports their sentence.
	Citations, Supported int
	// Wrong says, for people, what did not count.
	Wrong []string
}

func (t Talk) abstention() float64 { return share(t.Abstained, t.Unanswerable) }
func (t Talk) precision() float64  { return share(t.Supported, t.Citations) }

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Margin is by how much hybrid search may fall behind its best leg.
const Margin = 0.02

// gates returns the bars that were missed, each in words; with a real embedding
// model the bars are higher.
func gates(table []Row, talk Talk, genuine bool) []string {
	var missed []string
	least := func(name string, got, want float64) {
		if got < want {
			missed = append(missed, fmt.Sprintf("%s is %.4f, want at least %.4f", name, got, want))
		}
	}
	least("exact recall@1", find(table, Exact, Hybrid).Recall1.Mean, 1)
	least("typo recall@10", find(table, Typo, Hybrid).Recall10.Mean, 0.85)
	hybrid := find(table, Total, Hybrid).NDCG10.Mean
	for _, leg := range Legs {
		if leg == Hybrid {
			continue
		}
		alone := find(table, Total, leg).NDCG10.Mean
		least(fmt.Sprintf("hybrid nDCG@10 (%s - %.2f)", leg, Margin), hybrid, alone-Margin)
		if genuine && hybrid <= alone {
			missed = append(missed, fmt.Sprintf("hybrid nDCG@10 is %.4f and does not beat %s with %.4f", hybrid, leg, alone))
		}
	}
	least("abstention", talk.abstention(), 0.9)
	least("answers with a citation", share(talk.Cited, talk.Answerable), 0.9)
	least("citation precision", talk.precision(), 1)
	return missed
}

// markdown prints the rows as one table.
func markdown(table []Row) string {
	var out strings.Builder
	out.WriteString("| stratum | queries | leg | recall@1 | recall@10 | MRR | nDCG@10 |\n|---|---|---|---|---|---|---|\n")
	for _, r := range table {
		fmt.Fprintf(&out, "| %s | %d | %s | %s | %s | %s | %s |\n", r.Stratum, r.Queries, r.Leg, r.Recall1, r.Recall10, r.MRR, r.NDCG10)
	}
	return out.String()
}

// String prints the mean and its interval.
func (e Estimate) String() string { return fmt.Sprintf("%.3f [%.3f, %.3f]", e.Mean, e.Low, e.High) }
