package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// tupleRule says how far a comma-separated list of expressions goes.
type tupleRule struct {
	noCondition bool   // the elements are not "a if b else c"
	endName     string // a name that ends the list
	parens      bool   // within parentheses: may be empty
}

func (p *parser) parseTuple(rule tupleRule) (expr, error) {
	var items []expr
	isTuple := false
	for {
		if p.tupleEnd(rule) {
			break
		}
		parse := p.parseExpression
		if rule.noCondition {
			parse = p.parseOr
		}
		e, err := parse()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.skipOp(",") {
			break
		}
		isTuple = true
	}
	if isTuple || len(items) == 0 && rule.parens {
		return &tupleExpr{items}, nil
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("expected an expression, got %s", p.peek().describe())
	}
	return items[0], nil
}

func (p *parser) tupleEnd(rule tupleRule) bool {
	t := p.peek()
	return t.kind == tokVariableEnd || t.kind == tokBlockEnd || p.isOp(")") ||
		rule.endName != "" && p.isName(rule.endName)
}

func (p *parser) parseExpression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.parseOr()
	if err != nil {
		return nil, err
	}
	for p.skipName("if") {
		c := &condExpr{then: e}
		if c.test, err = p.parseOr(); err != nil {
			return nil, err
		}
		if p.skipName("else") {
			if c.otherwise, err = p.parseExpression(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, nil
}

func (p *parser) parseOr() (expr, error) {
	left, err := p.parseAnd()
	for err == nil && p.skipName("or") {
		e := &logicExpr{left: left}
		e.right, err = p.parseAnd()
		left = e
	}
	return left, err
}

func (p *parser) parseAnd() (expr, error) {
	left, err := p.parseNot()
	for err == nil && p.skipName("and") {
		e := &logicExpr{and: true, left: left}
		e.right, err = p.parseNot()
		left = e
	}
	return left, err
}

func (p *parser) parseNot() (expr, error) {
	if !p.isName("not") {
		return p.parseCompare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	p.pos++
	e, err := p.parseNot()
	return &unaryExpr{"not", e}, err
}

func (p *parser) parseCompare() (expr, error) {
	first, err := p.parseSum()
	if err != nil {
		return nil, err
	}
	var rest []comparison
	for {
		c := comparison{op: p.compareOp()}
		if c.op == "" {
			break
		}
		if c.right, err = p.parseSum(); err != nil {
			return nil, err
		}
		rest = append(rest, c)
	}
	if rest == nil {
		return first, nil
	}
	return &compareExpr{first, rest}, nil
}

// compareOp takes a comparison operator, or returns "".
func (p *parser) compareOp() string {
	t := p.peek()
	switch {
	case t.kind == tokOperator:
		switch t.text {
		case "==", "!=", "<", "<=", ">", ">=":
			return p.next().text
		}
	case p.skipName("in"):
		return "in"
	case p.isName("not") && p.look().kind == tokName && p.look().text == "in":
		p.pos += 2
		return "not in"
	}
	return ""
}

func (p *parser) parseSum() (expr, error) {
	left, err := p.parseConcat()
	for err == nil && (p.isOp("+") || p.isOp("-")) {
		e := &binaryExpr{op: p.next().text, left: left}
		e.right, err = p.parseConcat()
		left = e
	}
	return left, err
}

func (p *parser) parseConcat() (expr, error) {
	first, err := p.parseProduct()
	if err != nil || !p.isOp("~") {
		return first, err
	}
	parts := []expr{first}
	for p.skipOp("~") {
		e, err := p.parseProduct()
		if err != nil {
			return nil, err
		}
		parts = append(parts, e)
	}
	return &concatExpr{parts}, nil
}

func (p *parser) parseProduct() (expr, error) {
	left, err := p.parsePower()
	for err == nil && (p.isOp("*") || p.isOp("/") || p.isOp("//") || p.isOp("%")) {
		e := &binaryExpr{op: p.next().text, left: left}
		e.right, err = p.parsePower()
		left = e
	}
	return left, err
}

// parsePower associates to the left, and a sign binds closer: both as Jinja2 does.
func (p *parser) parsePower() (expr, error) {
	left, err := p.parseUnary(true)
	for err == nil && p.skipOp("**") {
		e := &binaryExpr{op: "**", left: left}
		e.right, err = p.parseUnary(true)
		left = e
	}
	return left, err
}

func (p *parser) parseUnary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var e expr
	var err error
	if p.isOp("-") || p.isOp("+") {
		op := p.next().text
		if e, err = p.parseUnary(false); err == nil {
			e = &unaryExpr{op, e}
		}
	} else {
		e, err = p.parsePrimary()
	}
	if err == nil {
		e, err = p.parsePostfix(e)
	}
	if err == nil && filters {
		e, err = p.parsePostfilter(e)
	}
	return e, err
}

func (p *parser) parsePrimary() (expr, error) {
	t := p.next()
	switch t.kind {
	case tokName:
		return p.nameOrConst(t.text), nil
	case tokString:
		var b strings.Builder
		b.WriteString(t.text)
		for p.peek().kind == tokString {
			b.WriteString(p.next().text)
		}
		return &constExpr{own(b.String())}, nil
	case tokInteger:
		i, ok := new(big.Int).SetString(t.text, 0)
		if !ok {
			return nil, fmt.Errorf("malformed number %.40q", t.text)
		}
		return &constExpr{normalInt(i)}, nil
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, fmt.Errorf("malformed number %.40q", t.text)
		}
		return &constExpr{float(f)}, nil
	case tokOperator:
		switch t.text {
		case "(":
			e, err := p.parseTuple(tupleRule{parens: true})
			if err != nil {
				return nil, err
			}
			return e, p.expectOp(")")
		case "[":
			return p.parseList()
		case "{":
			return p.parseDict()
		}
	}
	if t.kind != tokEOF {
		p.pos--
	}
	return nil, fmt.Errorf("expected an expression, got %s", t.describe())
}

// nameOrConst also notes which special names the macros around it use.
func (p *parser) nameOrConst(name string) expr {
	switch name {
	case "true", "True":
		return &constExpr{boolean(true)}
	case "false", "False":
		return &constExpr{boolean(false)}
	case "none", "None":
		return &constExpr{none{}}
	}
	for _, m := range p.macros {
		m.usesVarargs = m.usesVarargs || name == "varargs"
		m.usesKwargs = m.usesKwargs || name == "kwargs"
		m.usesCaller = m.usesCaller || name == "caller"
	}
	return &nameExpr{name}
}

func (p *parser) parseList() (expr, error) {
	var items []expr
	for !p.isOp("]") {
		e, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.skipOp(",") {
			break
		}
	}
	return &listExpr{items}, p.expectOp("]")
}

func (p *parser) parseDict() (expr, error) {
	d := &dictExpr{}
	for !p.isOp("}") {
		key, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		value, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, key), append(d.values, value)
		if !p.skipOp(",") {
			break
		}
	}
	return d, p.expectOp("}")
}

func (p *parser) parsePostfix(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.skipOp("."):
			e, err = p.parseAttribute(e)
		case p.skipOp("["):
			e, err = p.parseSubscript(e)
		case p.isOp("("):
			e, err = p.parseCall(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) parseAttribute(of expr) (expr, error) {
	switch t := p.next(); t.kind {
	case tokName:
		return &attrExpr{of, t.text}, nil
	case tokInteger:
		i, err := strconv.Atoi(t.text)
		if err != nil {
			return nil, fmt.Errorf("malformed index %.40q", t.text)
		}
		return &indexExpr{of, &constExpr{integer(i)}}, nil
	default:
		return nil, fmt.Errorf("expected a name after '.', got %s", t.describe())
	}
}

func (p *parser) parseSubscript(of expr) (expr, error) {
	var parts [3]expr
	colons := 0
	for !p.isOp("]") {
		if p.isOp(":") && colons < 2 {
			p.pos++
			colons++
			continue
		}
		if parts[colons] != nil {
			break
		}
		e, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		parts[colons] = e
		if colons == 0 && p.isOp(",") {
			return p.parseTupleIndex(of, e)
		}
	}
	if err := p.expectOp("]"); err != nil {
		return nil, err
	}
	if colons > 0 {
		return &sliceExpr{of, parts[0], parts[1], parts[2]}, nil
	}
	if parts[0] == nil {
		return nil, errors.New("expected an index between '[' and ']'")
	}
	return &indexExpr{of, parts[0]}, nil
}

// parseTupleIndex reads the rest of an index like x[1, 2].
func (p *parser) parseTupleIndex(of, first expr) (expr, error) {
	items := []expr{first}
	for p.skipOp(",") {
		e, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	return &indexExpr{of, &tupleExpr{items}}, p.expectOp("]")
}

func (p *parser) parseCall(of expr) (expr, error) {
	c := &callExpr{of: of, line: p.peek().line}
	var err error
	c.args, err = p.parseArgs()
	return c, err
}

func (p *parser) parseArgs() (argExprs, error) {
	var a argExprs
	if err := p.expectOp("("); err != nil {
		return a, err
	}
	for first := true; !p.isOp(")"); first = false {
		if !first {
			if err := p.expectOp(","); err != nil {
				return a, err
			}
			if p.isOp(")") {
				break
			}
		}
		if err := p.parseArg(&a); err != nil {
			return a, err
		}
	}
	return a, p.expectOp(")")
}

func (p *parser) parseArg(a *argExprs) (err error) {
	t := p.peek()
	switch {
	case p.skipOp("*"):
		if a.star != nil || a.starkw != nil {
			return errors.New("misplaced '*' argument")
		}
		a.star, err = p.parseExpression()
	case p.skipOp("**"):
		if a.starkw != nil {
			return errors.New("misplaced '**' argument")
		}
		a.starkw, err = p.parseExpression()
	case t.kind == tokName && p.look().kind == tokOperator && p.look().text == "=":
		if a.starkw != nil {
			return errors.New("keyword argument after '**'")
		}
		p.pos += 2
		var e expr
		e, err = p.parseExpression()
		a.names, a.kw = append(a.names, own(t.text)), append(a.kw, e)
	default:
		if a.star != nil || a.starkw != nil || len(a.kw) > 0 {
			return errors.New("positional argument after a keyword argument")
		}
		var e expr
		e, err = p.parseExpression()
		a.pos = append(a.pos, e)
	}
	return err
}

// parsePostfilter reads the filters, tests and calls after an expression. With a nil expression
// the first must be a filter: it takes a block's text.
func (p *parser) parsePostfilter(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.skipOp("|"):
			e, err = p.parseFilterName(e)
		case p.isName("is"):
			e, err = p.parseTest(e)
		case p.isOp("("):
			e, err = p.parseCall(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// parseDottedName reads a filter's or test's name.
func (p *parser) parseDottedName() (string, error) {
	name, err := p.expectName()
	for err == nil && p.skipOp(".") {
		var part string
		part, err = p.expectName()
		name += "." + part
	}
	return name, err
}

func (p *parser) parseFilterName(of expr) (expr, error) {
	name, err := p.parseDottedName()
	if err != nil {
		return nil, err
	}
	f := &filterExpr{of: of, name: name, call: filterByName(name)}
	if p.isOp("(") {
		f.args, err = p.parseArgs()
	}
	return f, err
}

func (p *parser) parseTest(of expr) (expr, error) {
	p.pos++
	negated := p.skipName("not")
	name, err := p.parseDottedName()
	if err != nil {
		return nil, err
	}
	t := &testExpr{of: of, name: name, call: testByName(name)}
	if p.isOp("(") {
		t.args, err = p.parseArgs()
	} else if p.testArgFollows() {
		if p.isName("is") {
			return nil, errors.New("tests cannot be chained with 'is'")
		}
		var arg expr
		if arg, err = p.parsePrimary(); err == nil {
			arg, err = p.parsePostfix(arg)
		}
		t.args.pos = []expr{arg}
	}
	if err != nil {
		return nil, err
	}
	if negated {
		return &unaryExpr{"not", t}, nil
	}
	return t, nil
}

// testArgFollows reports whether the next token begins a test's argument without parentheses.
func (p *parser) testArgFollows() bool {
	switch t := p.peek(); t.kind {
	case tokName:
		return t.text != "else" && t.text != "or" && t.text != "and"
	case tokString, tokInteger, tokFloat:
		return true
	case tokOperator:
		return t.text == "[" || t.text == "{"
	}
	return false
}
