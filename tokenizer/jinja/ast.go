package jinja

// expr is an expression; stmt is a statement. Both run on a machine and hold no state.
type expr interface {
	eval(m *machine) (Value, error)
}

type stmt interface {
	exec(m *machine) error
}

// Expressions.
type (
	constExpr struct{ value Value }
	nameExpr  struct{ name string }
	attrExpr  struct {
		of   expr
		name string
	}
	indexExpr struct{ of, index expr }
	sliceExpr struct{ of, start, stop, step expr } // all but of may be nil
	callExpr  struct {
		of   expr
		args argExprs
		line int
	}
	filterExpr struct {
		of   expr // nil in a filter block: the block's text
		name string
		args argExprs
		call filterFunc // nil if there is no such filter
	}
	testExpr struct {
		of   expr
		name string
		args argExprs
		call testFunc // nil if there is no such test
	}
	unaryExpr struct {
		op string
		of expr
	}
	binaryExpr struct {
		op          string
		left, right expr
	}
	logicExpr struct { // and, or
		and         bool
		left, right expr
	}
	condExpr    struct{ test, then, otherwise expr } // otherwise may be nil
	concatExpr  struct{ parts []expr }
	compareExpr struct {
		first expr
		rest  []comparison
	}
	comparison struct {
		op    string
		right expr
	}
	listExpr  struct{ items []expr }
	tupleExpr struct{ items []expr }
	dictExpr  struct{ keys, values []expr }
)

// argExprs are the arguments of a call.
type argExprs struct {
	pos    []expr
	names  []Value // of the keyword arguments
	kw     []expr
	star   expr // *args, may be nil
	starkw expr // **kwargs, may be nil
}

// target is what an assignment or a loop writes to: a name, a namespace's attribute, or several.
type target struct {
	name  string
	attr  string   // with a name: the attribute of that namespace
	parts []target // for a tuple; then name is empty
}

// Statements.
type (
	textStmt   struct{ text text }
	outputStmt struct {
		value expr
		line  int
	}
	ifStmt struct {
		test       expr
		body, tail []stmt
		line       int
	}
	forStmt struct {
		target    target
		iter      expr
		test      expr // may be nil
		body      []stmt
		otherwise []stmt
		recursive bool
		line      int
	}
	setStmt struct {
		target target
		value  expr
		line   int
	}
	setBlockStmt struct {
		target target
		filter expr // may be nil
		body   []stmt
		line   int
	}
	withStmt struct {
		targets []target
		values  []expr
		body    []stmt
		line    int
	}
	macroStmt struct {
		name     string
		params   []string
		defaults []expr // of the last params
		body     []stmt
		// The body mentions these, so calls may pass them.
		usesVarargs, usesKwargs, usesCaller bool
		line                                int
	}
	callStmt struct {
		call  *callExpr
		block *macroStmt
		line  int
	}
	filterStmt struct {
		filter expr
		body   []stmt
		line   int
	}
	breakStmt    struct{}
	continueStmt struct{}
)
