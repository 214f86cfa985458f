package vector

import (
	"hash/fnv"
	"maps"
	"slices"
)

// The constants of BM25, as most engines have them.
const (
	k1 = 1.2  // how soon a word that occurs again stops counting
	b  = 0.75 // how much a long text is discounted
)

// BM25 turns tokens into sparse vectors whose dot product is the BM25 score of
// Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond"
// (2009), equation 3.15, once the server has multiplied each query term by its
// inverse document frequency:
//
//	score = Σ idf(t) · tf·(k1+1) / (tf + k1·(1 - b + b·len/avg))
//
// A token's index is the 32-bit FNV-1a hash of its bytes. Two tokens with the same
// index count as one word: their values add up.
type BM25 struct {
	// AverageLength of the texts of the collection in tokens. It is part of every
	// stored vector: when it moves much, the texts must be indexed again. 0 takes
	// every text for one of average length.
	AverageLength float64
}

// Document returns the vector of a text's tokens: how much each says about it.
func (m BM25) Document(tokens []string) Sparse {
	length := 1.0 // relative to the average
	if m.AverageLength > 0 {
		length = float64(len(tokens)) / m.AverageLength
	}
	counts := make(map[string]float64, len(tokens))
	for _, t := range tokens {
		counts[t]++
	}
	values := make(map[uint32]float32, len(counts))
	for t, tf := range counts {
		values[index(t)] += float32(tf * (k1 + 1) / (tf + k1*(1-b+b*length)))
	}
	return fromMap(values)
}

// Query returns the vector of a query: each distinct token counts 1.
func (m BM25) Query(tokens []string) Sparse {
	values := make(map[uint32]float32, len(tokens))
	for _, t := range slices.Compact(slices.Sorted(slices.Values(tokens))) {
		values[index(t)]++
	}
	return fromMap(values)
}

func index(token string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(token)) // a hash takes everything
	return h.Sum32()
}

func fromMap(values map[uint32]float32) Sparse {
	s := Sparse{Indices: slices.Sorted(maps.Keys(values))}
	for _, i := range s.Indices {
		s.Values = append(s.Values, values[i])
	}
	return s
}
