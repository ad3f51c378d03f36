package jinja

import (
	"errors"
	"fmt"
	"slices"
)

// maxSourceDepth bounds the nesting of expressions and blocks in a template's source.
const maxSourceDepth = 200

// maxParams bounds a macro's parameters.
const maxParams = 200

// parser turns tokens into statements by recursive descent.
type parser struct {
	tokens []token // ends with tokEOF
	pos    int
	depth  int
	loops  int          // loops around the current position within the same macro
	macros []*macroStmt // macros around the current position
}

func (p *parser) peek() token { return p.tokens[p.pos] }

// look returns the token after the next.
func (p *parser) look() token { return p.tokens[min(p.pos+1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (p *parser) is(kind tokenKind, s string) bool {
	t := p.peek()
	return t.kind == kind && t.text == s
}

func (p *parser) isOp(op string) bool     { return p.is(tokOperator, op) }
func (p *parser) isName(name string) bool { return p.is(tokName, name) }

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) error {
	if !p.skipOp(op) {
		return fmt.Errorf("expected '%s', got %s", op, p.peek().describe())
	}
	return nil
}

func (p *parser) expectName() (string, error) {
	if p.peek().kind != tokName {
		return "", fmt.Errorf("expected a name, got %s", p.peek().describe())
	}
	return p.next().text, nil
}

func (p *parser) expectKind(kind tokenKind) error {
	if p.peek().kind != kind {
		return fmt.Errorf("expected %s, got %s", token{kind: kind}.describe(), p.peek().describe())
	}
	p.pos++
	return nil
}

// enter counts a level of nesting; the caller defers leave.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxSourceDepth {
		return fmt.Errorf("nested deeper than %d levels", maxSourceDepth)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

// parseBody reads statements up to the end of the template, or up to a tag named in until, whose
// name is then the next token.
func (p *parser) parseBody(until ...string) ([]stmt, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var body []stmt
	for {
		t := p.next()
		switch t.kind {
		case tokEOF:
			if len(until) > 0 {
				return nil, fmt.Errorf("template ends, expected '{%% %s %%}'", until[len(until)-1])
			}
			return body, nil
		case tokData:
			body = append(body, &textStmt{own(t.text)})
		case tokVariableBegin:
			e, err := p.parseTuple(tupleRule{})
			if err != nil {
				return nil, err
			}
			if err := p.expectKind(tokVariableEnd); err != nil {
				return nil, err
			}
			body = append(body, &outputStmt{e, t.line})
		case tokBlockBegin:
			if name := p.peek(); name.kind == tokName && slices.Contains(until, name.text) {
				return body, nil
			}
			s, err := p.parseStatement()
			if err != nil {
				return nil, err
			}
			body = append(body, s...)
		default:
			return nil, fmt.Errorf("unexpected %s", t.describe())
		}
	}
}

// parseBlock reads the end of a tag, a body, and the closing tag's name and end.
func (p *parser) parseBlock(end string) ([]stmt, error) {
	if err := p.expectKind(tokBlockEnd); err != nil {
		return nil, err
	}
	body, err := p.parseBody(end)
	if err != nil {
		return nil, err
	}
	p.next()
	return body, p.expectKind(tokBlockEnd)
}

// parseStatement reads a tag from its name on, with its body. Only print gives several
// statements.
func (p *parser) parseStatement() ([]stmt, error) {
	line := p.peek().line
	name, err := p.expectName()
	if err != nil {
		return nil, err
	}
	var s stmt
	switch name {
	case "if":
		s, err = p.parseIf(line)
	case "for":
		s, err = p.parseFor(line)
	case "set":
		s, err = p.parseSet(line)
	case "macro":
		s, err = p.parseMacro(line)
	case "call":
		s, err = p.parseCallBlock(line)
	case "filter":
		s, err = p.parseFilterBlock(line)
	case "with":
		s, err = p.parseWith(line)
	case "print":
		return p.parsePrint(line)
	case "generation":
		var body []stmt
		body, err = p.parseBlock("endgeneration")
		s = &withStmt{body: body, line: line}
	case "break", "continue":
		s, err = p.parseLoopControl(name)
	case "include", "import", "from", "extends", "block":
		err = fmt.Errorf("tag '%s' is not supported: a chat template is one file", name)
	default:
		err = fmt.Errorf("unknown tag %.40q", name)
	}
	if err != nil {
		return nil, err
	}
	return []stmt{s}, nil
}

func (p *parser) parsePrint(line int) ([]stmt, error) {
	var outputs []stmt
	for {
		e, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, &outputStmt{e, line})
		if !p.skipOp(",") {
			return outputs, p.expectKind(tokBlockEnd)
		}
	}
}

func (p *parser) parseLoopControl(name string) (stmt, error) {
	if p.loops == 0 {
		return nil, fmt.Errorf("'%s' outside of a loop", name)
	}
	if name == "break" {
		return breakStmt{}, p.expectKind(tokBlockEnd)
	}
	return continueStmt{}, p.expectKind(tokBlockEnd)
}

func (p *parser) parseIf(line int) (stmt, error) {
	s := &ifStmt{line: line}
	root := s
	for {
		var err error
		if s.test, err = p.parseTuple(tupleRule{noCondition: true}); err != nil {
			return nil, err
		}
		if err := p.expectKind(tokBlockEnd); err != nil {
			return nil, err
		}
		if s.body, err = p.parseBody("elif", "else", "endif"); err != nil {
			return nil, err
		}
		t := p.next()
		if t.text == "elif" {
			// A long chain of elif is a list, not nesting: exec walks it in a loop.
			tail := &ifStmt{line: t.line}
			s.tail = []stmt{tail}
			s = tail
			continue
		}
		if t.text == "else" {
			if s.tail, err = p.parseBlock("endif"); err != nil {
				return nil, err
			}
			return root, nil
		}
		return root, p.expectKind(tokBlockEnd)
	}
}

func (p *parser) parseFor(line int) (stmt, error) {
	s := &forStmt{line: line}
	var err error
	if s.target, err = p.parseTarget(false); err != nil {
		return nil, err
	}
	if s.target.writes("loop") {
		return nil, errors.New("a loop's target cannot be called 'loop'")
	}
	if !p.skipName("in") {
		return nil, fmt.Errorf("expected 'in', got %s", p.peek().describe())
	}
	rule := tupleRule{noCondition: true, endName: "recursive"}
	if s.iter, err = p.parseTuple(rule); err != nil {
		return nil, err
	}
	if p.skipName("if") {
		if s.test, err = p.parseExpression(); err != nil {
			return nil, err
		}
	}
	s.recursive = p.skipName("recursive")
	if err := p.expectKind(tokBlockEnd); err != nil {
		return nil, err
	}
	p.loops++
	s.body, err = p.parseBody("endfor", "else")
	p.loops--
	if err != nil {
		return nil, err
	}
	if p.next().text == "endfor" {
		return s, p.expectKind(tokBlockEnd)
	}
	s.otherwise, err = p.parseBlock("endfor")
	return s, err
}

// writes reports whether assigning to t sets the name.
func (t target) writes(name string) bool {
	inPart := func(part target) bool { return part.writes(name) }
	return t.name == name || slices.ContainsFunc(t.parts, inPart)
}

// parseTarget reads what an assignment writes to.
func (p *parser) parseTarget(attrs bool) (target, error) {
	t, err := p.parseTargetPart(attrs)
	if err != nil || !p.isOp(",") {
		return t, err
	}
	parts := []target{t}
	for p.skipOp(",") {
		if p.peek().kind != tokName && !p.isOp("(") {
			break
		}
		if t, err = p.parseTargetPart(attrs); err != nil {
			return target{}, err
		}
		parts = append(parts, t)
	}
	return target{parts: parts}, nil
}

func (p *parser) parseTargetPart(attrs bool) (target, error) {
	if err := p.enter(); err != nil {
		return target{}, err
	}
	defer p.leave()
	if p.skipOp("(") {
		t, err := p.parseTarget(attrs)
		if err != nil {
			return target{}, err
		}
		return t, p.expectOp(")")
	}
	name, err := p.expectName()
	if err != nil {
		return target{}, err
	}
	if reserved(name) {
		return target{}, fmt.Errorf("cannot assign to '%s'", name)
	}
	t := target{name: name}
	if attrs && p.skipOp(".") {
		t.attr, err = p.expectName()
	}
	return t, err
}

// reserved reports whether the name is a constant.
func reserved(name string) bool {
	switch name {
	case "true", "false", "none", "True", "False", "None":
		return true
	}
	return false
}

func (p *parser) parseSet(line int) (stmt, error) {
	t, err := p.parseTarget(true)
	if err != nil {
		return nil, err
	}
	if p.skipOp("=") {
		value, err := p.parseTuple(tupleRule{})
		if err != nil {
			return nil, err
		}
		return &setStmt{t, value, line}, p.expectKind(tokBlockEnd)
	}
	s := &setBlockStmt{target: t, line: line}
	if p.isOp("|") {
		if s.filter, err = p.parsePostfilter(nil); err != nil {
			return nil, err
		}
	}
	s.body, err = p.parseBlock("endset")
	return s, err
}

func (p *parser) parseWith(line int) (stmt, error) {
	s := &withStmt{line: line}
	for p.peek().kind != tokBlockEnd {
		if len(s.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		t, err := p.parseTargetPart(false)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		value, err := p.parseExpression()
		if err != nil {
			return nil, err
		}
		s.targets, s.values = append(s.targets, t), append(s.values, value)
	}
	var err error
	s.body, err = p.parseBlock("endwith")
	return s, err
}

func (p *parser) parseFilterBlock(line int) (stmt, error) {
	filter, err := p.parseFilterName(nil)
	if err != nil {
		return nil, err
	}
	if filter, err = p.parsePostfilter(filter); err != nil {
		return nil, err
	}
	body, err := p.parseBlock("endfilter")
	return &filterStmt{filter, body, line}, err
}

func (p *parser) parseMacro(line int) (stmt, error) {
	s := &macroStmt{line: line}
	var err error
	if s.name, err = p.expectName(); err != nil {
		return nil, err
	}
	if reserved(s.name) {
		return nil, fmt.Errorf("cannot assign to '%s'", s.name)
	}
	return s, p.parseMacroRest(s, "endmacro")
}

// parseMacroRest reads a macro's parameters and body.
func (p *parser) parseMacroRest(s *macroStmt, end string) error {
	if err := p.parseParams(s); err != nil {
		return err
	}
	return p.parseMacroBody(s, end)
}

func (p *parser) parseMacroBody(s *macroStmt, end string) error {
	loops := p.loops
	p.loops = 0
	p.macros = append(p.macros, s)
	var err error
	s.body, err = p.parseBlock(end)
	p.macros = p.macros[:len(p.macros)-1]
	p.loops = loops
	return err
}

func (p *parser) parseParams(s *macroStmt) error {
	if err := p.expectOp("("); err != nil {
		return err
	}
	for first := true; !p.isOp(")"); first = false {
		if !first {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		name, err := p.expectName()
		if err != nil {
			return err
		}
		if reserved(name) || slices.Contains(s.params, name) {
			return fmt.Errorf("cannot use '%s' as a parameter here", name)
		}
		if s.params = append(s.params, name); len(s.params) > maxParams {
			return fmt.Errorf("more than %d parameters", maxParams)
		}
		if p.skipOp("=") {
			e, err := p.parseExpression()
			if err != nil {
				return err
			}
			s.defaults = append(s.defaults, e)
		} else if len(s.defaults) > 0 {
			return errors.New("a parameter without default follows one with a default")
		}
	}
	return p.expectOp(")")
}

func (p *parser) parseCallBlock(line int) (stmt, error) {
	block := &macroStmt{name: "caller", line: line}
	if p.isOp("(") {
		if err := p.parseParams(block); err != nil {
			return nil, err
		}
	}
	e, err := p.parseExpression()
	if err != nil {
		return nil, err
	}
	call, ok := e.(*callExpr)
	if !ok {
		return nil, errors.New("expected a call after 'call'")
	}
	return &callStmt{call, block, line}, p.parseMacroBody(block, "endcall")
}
