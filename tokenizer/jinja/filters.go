package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// filterFunc computes "v | name(args)".
type filterFunc func(m *machine, v Value, a args) (Value, error)

// filterByName returns nil if there is no such filter.
func filterByName(name string) filterFunc {
	if f := selectFilter(name); f != nil {
		return f
	}
	if f := sequenceFilters[name]; f != nil {
		return f
	}
	return valueFilters[name]
}

// valueFilters work on single values.
var valueFilters = map[string]filterFunc{
	"abs":        filterAbs,
	"capitalize": textFilter(mapText(capitalize)),
	"center":     filterCenter,
	"d":          filterDefault,
	"default":    filterDefault,
	"float":      filterFloat,
	"format":     filterFormat,
	"indent":     filterIndent,
	"int":        filterInt,
	"lower":      textFilter(mapText(lower)),
	"replace":    filterReplace,
	"round":      filterRound,
	"safe":       filterString,
	"string":     filterString,
	"title":      textFilter(mapText(titleWords)),
	"tojson":     filterToJSON,
	"trim":       filterTrim,
	"truncate":   filterTruncate,
	"upper":      textFilter(mapText(upper)),
	"wordcount":  filterWordcount,
}

// textFilter applies a str method to the text a value prints.
func textFilter(f textMethod) filterFunc {
	return func(m *machine, v Value, a args) (Value, error) {
		t, err := m.str(v)
		if err != nil {
			return nil, err
		}
		return f(m, t, a)
	}
}

func filterAbs(_ *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("abs", 0); err != nil {
		return nil, err
	}
	if f, ok := v.(float); ok {
		return float(math.Abs(float64(f))), nil
	}
	i, ok := asInt(v)
	if !ok {
		return unary("abs", v)
	}
	return normalInt(new(big.Int).Abs(asBig(i))), nil
}

func filterDefault(_ *machine, v Value, a args) (Value, error) {
	b, err := a.bind("default", 0, "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	if _, missing := v.(undefined); !missing && (!boolArg(b[1], false) || truth(v)) {
		return v, nil
	}
	if b[0] == nil {
		return own(""), nil
	}
	return b[0], nil
}

func filterString(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("string", 0); err != nil {
		return nil, err
	}
	return m.str(v)
}

func filterTrim(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("trim", 0, "chars")
	if err != nil {
		return nil, err
	}
	t, err := m.str(v)
	if err != nil {
		return nil, err
	}
	if err := m.step(len(t.s) / 256); err != nil {
		return nil, err
	}
	return m.strip("trim", t, b[0], true, true)
}

func filterCenter(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("center", 0, "width")
	if err != nil {
		return nil, err
	}
	width, err := intArg(b[0], 80)
	if err != nil {
		return nil, err
	}
	t, err := m.str(v)
	if err != nil {
		return nil, err
	}
	return m.pad(t, own(" "), width, 1, 1)
}

func filterReplace(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	var parts [3]text
	for i, part := range []Value{v, b[0], b[1]} {
		if parts[i], err = m.str(part); err != nil {
			return nil, err
		}
	}
	limit := -1
	if _, ok := orNone(b[2]).(none); !ok {
		if limit, err = intArg(b[2], -1); err != nil {
			return nil, err
		}
	}
	return m.replace(parts[0], parts[1], parts[2], limit)
}

func filterIndent(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("indent", 0, "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	t, err := textArg("indent", v)
	if err != nil {
		return nil, err
	}
	indent, ok := b[0].(text)
	if !ok {
		width, err := intArg(b[0], 4)
		if err != nil {
			return nil, err
		}
		if indent, err = m.repeat(own(" "), width); err != nil {
			return nil, err
		}
	}
	if err := m.charge(textBytes * len(t.s)); err != nil {
		return nil, err
	}
	// A newline is added first, as Jinja2 does: the empty text has one line then.
	lines, err := m.concat(t, own("\n"))
	if err != nil {
		return nil, err
	}
	first, blank := boolArg(b[1], false), boolArg(b[2], false)
	out := builder{m: m}
	for i, line := range lines.lines(false) {
		if i > 0 {
			if err := out.addString("\n", true); err != nil {
				return nil, err
			}
		}
		if i == 0 && first || i > 0 && (blank || line.s != "") {
			if err := out.add(indent); err != nil {
				return nil, err
			}
		}
		if err := out.add(line); err != nil {
			return nil, err
		}
	}
	return out.text(), nil
}

func filterTruncate(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("truncate", 0, "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	t, err := textArg("truncate", v)
	if err != nil {
		return nil, err
	}
	if err := m.step(len(t.s) / 64); err != nil {
		return nil, err
	}
	limit, err := intArg(b[0], 255)
	if err != nil {
		return nil, err
	}
	leeway := 5
	if _, ok := orNone(b[3]).(none); !ok {
		if leeway, err = intArg(b[3], 5); err != nil {
			return nil, err
		}
	}
	end := own("...")
	if b[2] != nil {
		if end, err = textArg("truncate", b[2]); err != nil {
			return nil, err
		}
	}
	keep := limit - end.runeCount()
	if keep < 0 || leeway < 0 {
		return nil, fmt.Errorf("truncate: length %d is shorter than the end mark", limit)
	}
	if t.runeCount() <= limit+leeway {
		return t, nil
	}
	head := t.slice(0, byteIndex(t.s, keep))
	if at := strings.LastIndexByte(head.s, ' '); at >= 0 && !boolArg(b[1], false) {
		head = head.slice(0, at)
	}
	return m.concat(head, end)
}

func filterWordcount(m *machine, v Value, a args) (Value, error) {
	if _, err := a.bind("wordcount", 0); err != nil {
		return nil, err
	}
	t, err := m.str(v)
	if err != nil {
		return nil, err
	}
	if err := m.step(len(t.s) / 8); err != nil {
		return nil, err
	}
	count, inWord := 0, false
	for _, r := range t.s {
		if isAlnum(r) || r == '_' {
			if !inWord {
				count++
			}
			inWord = true
		} else {
			inWord = false
		}
	}
	return integer(count), nil
}

func filterFormat(m *machine, v Value, a args) (Value, error) {
	t, err := m.str(v)
	if err != nil {
		return nil, err
	}
	if len(a.kw) == 0 {
		return m.percentFormat(t, &tuple{items: a.pos})
	}
	if len(a.pos) > 0 {
		return nil, typeError("format cannot take positional and keyword arguments together")
	}
	d := NewDict()
	for _, kw := range a.kw {
		if err := m.put(d, kw.name, kw.value); err != nil {
			return nil, err
		}
	}
	return m.percentFormat(t, d)
}

// parseInt reads a string as Python's int() does; ok is false if it is none.
func parseInt(s string, base int) (Value, bool) {
	s = strings.TrimFunc(s, isSpace)
	if len(s) > maxNumberChars {
		return nil, false
	}
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || strings.HasPrefix(digits, "_") && base != 0 ||
		strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
		return nil, false
	}
	if base == 2 || base == 8 || base == 16 {
		prefix := map[int]string{2: "0b", 8: "0o", 16: "0x"}[base]
		if len(digits) > 2 && strings.EqualFold(digits[:2], prefix) {
			digits = digits[2:]
		}
	}
	if base != 0 {
		digits = strings.ReplaceAll(digits, "_", "")
	}
	i, ok := new(big.Int).SetString(digits, base)
	if !ok || i.Sign() < 0 {
		return nil, false
	}
	if strings.HasPrefix(s, "-") {
		i.Neg(i)
	}
	return normalInt(i), true
}

// parseFloat reads a string as Python's float() does.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if len(s) > maxNumberChars || strings.ContainsAny(s, "xXpP") ||
		strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

func filterInt(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("int", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	otherwise := b[0]
	if otherwise == nil {
		otherwise = integer(0)
	}
	base, err := intArg(b[1], 10)
	if err != nil {
		return nil, err
	}
	if base < 0 || base == 1 || base > 36 {
		return otherwise, nil
	}
	f := math.NaN()
	switch v := v.(type) {
	case undefined:
		return nil, v.err()
	case float:
		f = float64(v)
	case text:
		if err := m.step(len(v.s) / 64); err != nil {
			return nil, err
		}
		if i, ok := parseInt(v.s, base); ok {
			return i, nil
		}
		if g, ok := parseFloat(v.s); ok {
			f = g
		}
	default:
		if i, ok := asInt(v); ok {
			return i, nil
		}
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return otherwise, nil
	}
	i, _ := big.NewFloat(f).Int(nil)
	return normalInt(i), nil
}

func filterFloat(m *machine, v Value, a args) (Value, error) {
	b, err := a.bind("float", 0, "default")
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case undefined:
		return nil, v.err()
	case text:
		if err := m.step(len(v.s) / 64); err != nil {
			return nil, err
		}
		if f, ok := parseFloat(v.s); ok {
			return float(f), nil
		}
	default:
		if f, ok := asFloat(v); ok && !math.IsInf(f, 0) || v == Value(float(f)) {
			return float(f), nil
		}
	}
	if b[0] == nil {
		return float(0), nil
	}
	return b[0], nil
}

func filterRound(_ *machine, v Value, a args) (Value, error) {
	b, err := a.bind("round", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	precision, err := intArg(b[0], 0)
	if err != nil {
		return nil, err
	}
	how := "common"
	if b[1] != nil {
		t, err := textArg("round", b[1])
		if err != nil {
			return nil, err
		}
		how = t.s
	}
	f, ok := asFloat(v)
	if u, missing := v.(undefined); missing {
		return nil, u.err()
	}
	if !ok {
		return nil, typeError("type %s cannot be rounded", v.kind())
	}
	const maxPrecision = 300
	precision = max(-maxPrecision, min(precision, maxPrecision))
	scale := math.Pow(10, float64(precision))
	switch how {
	case "common":
		if i, ok := asInt(v); ok {
			return roundInt(asBig(i), precision), nil
		}
		return float(roundFloat(f, precision)), nil
	case "ceil":
		return float(math.Ceil(f*scale) / scale), nil
	case "floor":
		return float(math.Floor(f*scale) / scale), nil
	}
	return nil, errors.New("round: method must be common, ceil or floor")
}

// roundInt rounds to a power of ten, halves to even.
func roundInt(i *big.Int, precision int) Value {
	if precision >= 0 {
		return normalInt(i)
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-precision)), nil)
	quotient, rest := new(big.Int).DivMod(i, unit, new(big.Int))
	order := new(big.Int).Lsh(rest, 1).Cmp(unit)
	if order > 0 || order == 0 && quotient.Bit(0) == 1 {
		quotient.Add(quotient, big.NewInt(1))
	}
	return normalInt(quotient.Mul(quotient, unit))
}

// roundFloat rounds correctly, as Python does: by the decimal digits of the exact value.
func roundFloat(f float64, precision int) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return f
	}
	if precision < 0 {
		i, _ := new(big.Float).SetFloat64(math.RoundToEven(f)).Int(nil)
		if f, ok := asFloat(roundInt(i, precision)); ok {
			return f
		}
	}
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
	if err != nil {
		return f
	}
	return rounded
}
