package psp

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// form holds decoded parameters in Stripe's bracket notation: a, a[], a[0], a[key].
type form url.Values

func (f form) get(name string) string { return strings.TrimSpace(url.Values(f).Get(name)) }

func (f form) has(name string) bool { return url.Values(f).Has(name) }

// list returns the values of name[], name[0], name[1] ... in order.
func (f form) list(name string) []string {
	values := slices.Clone(f[name+"[]"])
	for i := 0; f.has(name + "[" + strconv.Itoa(i) + "]"); i++ {
		values = append(values, f.get(name+"["+strconv.Itoa(i)+"]"))
	}
	return values
}

// dict returns the values of name[key] by key.
func (f form) dict(name string) map[string]string {
	values := map[string]string{}
	for key, v := range f {
		if inner, ok := strings.CutPrefix(key, name+"["); ok && strings.HasSuffix(inner, "]") && len(v) > 0 {
			values[strings.TrimSuffix(inner, "]")] = v[0]
		}
	}
	return values
}

// only refuses parameters whose root name is not listed; expand is always known.
func (f form) only(names ...string) *apiError {
	for key := range f {
		root, _, _ := strings.Cut(key, "[")
		if root != "expand" && !slices.Contains(names, root) {
			return invalidParam(key, "parameter_unknown", "Received unknown parameter: "+key)
		}
	}
	return nil
}

// integer returns the whole number under name, or fallback when it is absent.
func (f form) integer(name string, fallback int64) (int64, *apiError) {
	if f.get(name) == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(f.get(name), 10, 64)
	if err != nil {
		return 0, invalidParam(name, "parameter_invalid_integer", "Invalid integer: "+f.get(name))
	}
	return n, nil
}

func (f form) boolean(name string) (bool, *apiError) {
	switch f.get(name) {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, invalidParam(name, "", "Invalid boolean: "+f.get(name))
}

// oneOf returns the value under name, which must be one of allowed; the first is the default.
func (f form) oneOf(name string, allowed ...string) (string, *apiError) {
	v := f.get(name)
	if v == "" {
		return allowed[0], nil
	}
	if !slices.Contains(allowed, v) {
		return "", invalidParam(name, "", "Invalid "+name+": must be one of "+strings.Join(allowed, ", "))
	}
	return v, nil
}

// metadata returns the validated metadata parameter.
func (f form) metadata() (map[string]string, *apiError) {
	m := f.dict("metadata")
	if len(m) > 50 {
		return nil, invalidParam("metadata", "", "Metadata can have up to 50 keys.")
	}
	for key, value := range m {
		if len(key) > 40 || len(value) > 500 {
			return nil, invalidParam("metadata", "", "Metadata keys can be up to 40 characters long, values up to 500.")
		}
	}
	return m, nil
}

// page is the window of a list request.
type page struct {
	limit                       int
	startingAfter, endingBefore string
	from, to                    int64 // creation time in Unix seconds, inclusive
}

func (f form) page() (page, *apiError) {
	p := page{startingAfter: f.get("starting_after"), endingBefore: f.get("ending_before"), to: 1<<62 - 1}
	limit, err := f.integer("limit", 10)
	if err != nil {
		return p, err
	}
	if limit < 1 || limit > 100 {
		return p, invalidParam("limit", "parameter_invalid_integer", "This value must be between 1 and 100.")
	}
	p.limit = int(limit)
	for _, bound := range []struct {
		name  string
		apply func(int64)
	}{
		{"created", func(t int64) { p.from, p.to = t, t }},
		{"created[gte]", func(t int64) { p.from = t }},
		{"created[gt]", func(t int64) { p.from = t + 1 }},
		{"created[lte]", func(t int64) { p.to = t }},
		{"created[lt]", func(t int64) { p.to = t - 1 }},
	} {
		if !f.has(bound.name) {
			continue
		}
		t, err := f.integer(bound.name, 0)
		if err != nil {
			return p, err
		}
		bound.apply(t)
	}
	return p, nil
}

// listWire is a page of a collection, newest first.
type listWire struct {
	Object  string `json:"object"`
	URL     string `json:"url"`
	HasMore bool   `json:"has_more"`
	Data    []any  `json:"data"`

	last string // id of the last item
}

// paged cuts the page out of items, which are in order of creation.
func paged[T any](items []T, p page, url string, id func(T) string, created func(T) int64, render func(T) any) (*listWire, *apiError) {
	newest := slices.Clone(items)
	slices.Reverse(newest)
	newest = slices.DeleteFunc(newest, func(item T) bool { return created(item) < p.from || created(item) > p.to })
	at := func(cursor, param string) (int, *apiError) {
		i := slices.IndexFunc(newest, func(item T) bool { return id(item) == cursor })
		if i < 0 {
			return 0, missingResource(400, param, "object", cursor)
		}
		return i, nil
	}
	list := &listWire{Object: "list", URL: url, Data: []any{}}
	switch {
	case p.startingAfter != "":
		i, err := at(p.startingAfter, "starting_after")
		if err != nil {
			return nil, err
		}
		newest = newest[i+1:]
	case p.endingBefore != "":
		i, err := at(p.endingBefore, "ending_before")
		if err != nil {
			return nil, err
		}
		newest = newest[max(0, i-p.limit):i]
		list.HasMore = i > p.limit
	}
	if len(newest) > p.limit {
		newest, list.HasMore = newest[:p.limit], true
	}
	for _, item := range newest {
		list.Data = append(list.Data, render(item))
		list.last = id(item)
	}
	return list, nil
}
