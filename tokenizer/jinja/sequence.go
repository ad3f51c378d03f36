package jinja

import (
	"errors"
	"slices"
	"strconv"
	"unicode"
)

// sequenceFilters work on what can be iterated over.
var sequenceFilters = map[string]filterFunc{
	"batch":    filterBatch,
	"count":    filterLength,
	"dictsort": filterDictsort,
	"first":    filterFirst,
	"groupby":  filterGroupby,
	"items":    filterItems,
	"join":     filterJoin,
	"last":     filterLast,
	"length":   filterLength,
	"list":     filterList,
	"max":      extremeFilter("max", 1),
	"min":      extremeFilter("min", -1),
	"reverse":  filterReverse,
	"slice":    filterSlice,
	"sort":     filterSort,
	"sum":      filterSum,
	"unique":   filterUnique,
}

// keyFunc takes out of an element what a filter compares or yields.
type keyFunc func(Value) (Value, error)

// getter returns the key function for an attribute such as "function.name" or 0. A missing
// attribute gives otherwise, unless that is nil.
func (m *machine) getter(attribute, otherwise Value, foldCase bool) keyFunc {
	var parts []Value
	switch a := attribute.(type) {
	case nil, none:
	case text:
		for _, part := range a.split(".", -1, false) {
			if allRunes(part.s, unicode.IsDigit) {
				if i, err := strconv.Atoi(part.s); err == nil {
					parts = append(parts, integer(i))
					continue
				}
			}
			parts = append(parts, part)
		}
	default:
		parts = []Value{a}
	}
	return func(v Value) (Value, error) {
		for _, part := range parts {
			var err error
			if v, err = m.item(v, part); err != nil {
				return nil, err
			}
			if _, missing := v.(undefined); missing && otherwise != nil {
				v = otherwise
			}
		}
		if t, ok := v.(text); ok && foldCase {
			if err := m.charge(3 * len(t.s)); err != nil {
				return nil, err
			}
			return derived(lower(t.s), t), nil
		}
		return v, nil
	}
}

// keysOf applies a key function to elements.
func (m *machine) keysOf(items []Value, key keyFunc) ([]Value, error) {
	if err := m.chargeItems(len(items)); err != nil {
		return nil, err
	}
	keys := make([]Value, len(items))
	for i, item := range items {
		var err error
		if keys[i], err = key(item); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// stableSort returns the elements ordered by key; equal ones keep their order even if reversed.
func stableSort[T any](m *machine, items []T, reverse bool, key func(T) Value) ([]T, error) {
	var failure error
	sorted := slices.Clone(items)
	slices.SortStableFunc(sorted, func(a, b T) int {
		if failure != nil {
			return 0
		}
		order, _, err := m.order(key(a), key(b), 0)
		failure = err
		if reverse {
			order = -order
		}
		return order
	})
	return sorted, failure
}

// sortBy returns the elements ordered by their keys.
func (m *machine) sortBy(items, keys []Value, reverse bool) ([]Value, error) {
	if err := m.chargeItems(2 * len(items)); err != nil {
		return nil, err
	}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	order, err := stableSort(m, order, reverse, func(i int) Value { return keys[i] })
	if err != nil {
		return nil, err
	}
	sorted := make([]Value, len(items))
	for i, from := range order {
		sorted[i] = items[from]
	}
	return sorted, nil
}

func filterSort(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("sort", 0, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	fold := !boolArg(b[1], false)
	getters := []keyFunc{}
	if t, ok := b[2].(text); ok {
		for _, part := range t.split(",", -1, false) {
			getters = append(getters, m.getter(part, nil, fold))
		}
	} else {
		getters = append(getters, m.getter(b[2], nil, fold))
	}
	keys, err := m.keysOf(items, func(v Value) (Value, error) {
		parts := make([]Value, len(getters))
		for i, get := range getters {
			var err error
			if parts[i], err = get(v); err != nil {
				return nil, err
			}
		}
		return &list{parts}, nil
	})
	if err != nil {
		return nil, err
	}
	sorted, err := m.sortBy(items, keys, boolArg(b[0], false))
	return &list{sorted}, err
}

func filterDictsort(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("dictsort", 0, "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	position := integer(0)
	if b[1] != nil {
		by, err := textArg("dictsort", b[1])
		if err != nil {
			return nil, err
		}
		switch by.s {
		case "key":
		case "value":
			position = 1
		default:
			return nil, errors.New("dictsort: by must be 'key' or 'value'")
		}
	}
	if u, ok := v.(undefined); ok {
		return nil, u.err()
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, typeError("dictsort needs a mapping, got %s", v.kind())
	}
	if err := m.chargeItems(4 * d.Len()); err != nil {
		return nil, err
	}
	pairs := d.pairs()
	keys, err := m.keysOf(pairs, m.getter(position, nil, !boolArg(b[0], false)))
	if err != nil {
		return nil, err
	}
	sorted, err := m.sortBy(pairs, keys, boolArg(b[2], false))
	return &list{sorted}, err
}

func filterGroupby(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("groupby", 1, "attribute", "default", "case_sensitive")
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	get := m.getter(b[0], b[1], !boolArg(b[2], false))
	keys, err := m.keysOf(items, get)
	if err != nil {
		return nil, err
	}
	if items, err = m.sortBy(items, keys, false); err != nil {
		return nil, err
	}
	if keys, err = m.keysOf(items, get); err != nil {
		return nil, err
	}
	exact := m.getter(b[0], b[1], false)
	groups := &list{}
	for start := 0; start < len(items); {
		end := start + 1
		for end < len(items) {
			same, err := m.equal(keys[start], keys[end], 0)
			if err != nil {
				return nil, err
			}
			if !same {
				break
			}
			end++
		}
		name, err := exact(items[start])
		if err != nil {
			return nil, err
		}
		group := []Value{name, &list{items[start:end:end]}}
		groups.items = append(groups.items, &tuple{items: group, group: true})
		start = end
	}
	return groups, nil
}

func filterUnique(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("unique", 0, "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	key := m.getter(b[1], nil, !boolArg(b[0], false))
	seen := NewDict()
	result := &stream{}
	for _, item := range items {
		k, err := key(item)
		if err != nil {
			return nil, err
		}
		if _, found, err := m.get(seen, k); err != nil || found {
			if err != nil {
				return nil, err
			}
			continue
		}
		if err := m.put(seen, k, none{}); err != nil {
			return nil, err
		}
		result.items = append(result.items, item)
	}
	return result, nil
}

// extremeFilter is min (sign -1) or max (sign 1).
func extremeFilter(name string, sign int) filterFunc {
	return func(m *machine, v Value, a args) (Value, error) {
		b, err := a.bind(name, 0, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := m.items(v)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return undefined{hint: "no aggregated item, sequence was empty"}, nil
		}
		keys, err := m.keysOf(items, m.getter(b[1], nil, !boolArg(b[0], false)))
		if err != nil {
			return nil, err
		}
		best := 0
		for i := range items {
			order, _, err := m.order(keys[i], keys[best], 0)
			if err != nil {
				return nil, err
			}
			if order*sign > 0 {
				best = i
			}
		}
		return items[best], nil
	}
}

func filterSum(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("sum", 0, "attribute", "start")
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	var total Value = integer(0)
	if b[1] != nil {
		total = b[1]
	}
	if _, ok := total.(text); ok {
		return nil, typeError("sum() can't sum strings: use join")
	}
	get := m.getter(b[0], nil, false)
	for _, item := range items {
		if item, err = get(item); err != nil {
			return nil, err
		}
		if total, err = m.binary("+", total, item); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func filterJoin(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("join", 0, "d", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	sep := own("")
	if b[0] != nil {
		if sep, err = m.str(b[0]); err != nil {
			return nil, err
		}
	}
	get := m.getter(b[1], nil, false)
	if err := m.chargeItems(3 * len(items)); err != nil {
		return nil, err
	}
	pieces := make([]text, len(items))
	for i, item := range items {
		if item, err = get(item); err != nil {
			return nil, err
		}
		if pieces[i], err = m.str(item); err != nil {
			return nil, err
		}
	}
	return m.joinTexts(sep, pieces)
}

func filterLength(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("length", 0); err != nil {
		return nil, err
	}
	n, ok := length(v)
	if !ok {
		return nil, typeError("object of type '%s' has no len()", v.kind())
	}
	return integer(n), m.step(n / 64)
}

func filterFirst(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("first", 0); err != nil {
		return nil, err
	}
	if s, ok := v.(*stream); ok && len(s.items) > 0 {
		first := s.items[0]
		s.items = s.items[1:]
		return first, nil
	}
	if t, ok := v.(text); ok && t.s != "" {
		return t.slice(0, byteIndex(t.s, 1)), nil
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undefined{hint: "no first item, sequence was empty"}, nil
	}
	return items[0], nil
}

func filterLast(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("last", 0); err != nil {
		return nil, err
	}
	if _, ok := v.(*stream); ok {
		return nil, typeError("'generator' object is not reversible")
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undefined{hint: "no last item, sequence was empty"}, nil
	}
	return items[len(items)-1], nil
}

func filterList(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("list", 0); err != nil {
		return nil, err
	}
	items, err := m.items(v)
	return &list{items}, err
}

func filterReverse(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("reverse", 0); err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if err := m.chargeItems(len(items)); err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	switch v.(type) {
	case text:
		pieces := make([]text, len(items))
		for i, item := range items {
			pieces[i] = item.(text)
		}
		return m.joinTexts(own(""), pieces)
	case *stream:
		return &list{items}, nil
	}
	return &stream{items}, nil
}

func filterItems(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("items", 0); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case undefined:
		return &stream{}, nil
	case *Dict:
		if err := m.chargeItems(4 * v.Len()); err != nil {
			return nil, err
		}
		return &stream{v.pairs()}, nil
	}
	return nil, typeError("can only get item pairs from a mapping")
}

func filterBatch(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("batch", 1, "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	size, err := intArg(b[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	result := &stream{}
	if size < 1 {
		return nil, errors.New("batch: linecount must be positive")
	}
	for len(items) > size {
		result.items = append(result.items, &list{items[:size:size]})
		items = items[size:]
	}
	if _, skip := orNone(b[1]).(none); !skip && len(items) > 0 {
		fill, err := m.repeatItems([]Value{b[1]}, size-len(items))
		if err != nil {
			return nil, err
		}
		items = slices.Concat(items, fill)
	}
	if len(items) > 0 {
		result.items = append(result.items, &list{items})
	}
	return result, nil
}

func filterSlice(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("slice", 1, "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	count, err := intArg(b[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := m.items(v)
	if err != nil {
		return nil, err
	}
	if count < 1 {
		return nil, errors.New("slice: slices must be positive")
	}
	if err := m.chargeItems(count + len(items)); err != nil {
		return nil, err
	}
	result := &stream{}
	size, longer := len(items)/count, len(items)%count
	for i := range count {
		n := size
		if i < longer {
			n++
		}
		part := items[:n:n]
		items = items[n:]
		if _, skip := orNone(b[1]).(none); !skip && i >= longer {
			part = append(part, b[1])
		}
		result.items = append(result.items, &list{part})
	}
	return result, nil
}
