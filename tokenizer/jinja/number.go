package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
)

// maxIntBits bounds integers: Python refuses to print more than 4300 digits, about as much.
const maxIntBits = 14285

var errDivideByZero = errors.New("division by zero")

// normalInt returns the value of i; i must not be changed afterwards.
func normalInt(i *big.Int) Value {
	if i.IsInt64() {
		return integer(i.Int64())
	}
	return bigint{i}
}

// asInt returns v as an integer value: True is 1.
func asInt(v Value) (Value, bool) {
	switch v := v.(type) {
	case boolean:
		if v {
			return integer(1), true
		}
		return integer(0), true
	case integer, bigint:
		return v, true
	}
	return nil, false
}

// asBig returns an integer value as a big.Int that the caller must not change.
func asBig(v Value) *big.Int {
	if b, ok := v.(bigint); ok {
		return b.Int
	}
	return big.NewInt(int64(v.(integer)))
}

// asFloat converts a number; ok is false for other values.
func asFloat(v Value) (f float64, ok bool) {
	switch v := v.(type) {
	case float:
		return float64(v), true
	case bigint:
		f, _ := new(big.Float).SetInt(v.Int).Float64()
		return f, true
	}
	if i, ok := asInt(v); ok {
		return float64(i.(integer)), true
	}
	return 0, false
}

func isNumber(v Value) bool {
	switch v.(type) {
	case boolean, integer, bigint, float:
		return true
	}
	return false
}

func unary(op string, v Value) (Value, error) {
	if u, ok := v.(undefined); ok {
		return nil, u.err()
	}
	if f, ok := v.(float); ok {
		if op == "-" {
			return -f, nil
		}
		return f, nil
	}
	i, ok := asInt(v)
	if !ok {
		return nil, typeError("bad operand type for unary %s: '%s'", op, v.kind())
	}
	if op == "-" {
		return normalInt(new(big.Int).Neg(asBig(i))), nil
	}
	return i, nil
}

// arithmetic computes op on two numbers.
func arithmetic(op string, a, b Value) (Value, error) {
	x, ok1 := asInt(a)
	y, ok2 := asInt(b)
	if ok1 && ok2 {
		if i, ok := smallArithmetic(op, x, y); ok {
			return i, nil
		}
		return bigArithmetic(op, asBig(x), asBig(y))
	}
	f, _ := asFloat(a)
	g, _ := asFloat(b)
	return floatArithmetic(op, f, g)
}

// smallArithmetic is the fast path for what surely does not overflow.
func smallArithmetic(op string, a, b Value) (Value, bool) {
	const small = 1 << 31
	x, ok1 := a.(integer)
	y, ok2 := b.(integer)
	if !ok1 || !ok2 || x >= small || x <= -small || y >= small || y <= -small {
		return nil, false
	}
	switch op {
	case "+":
		return x + y, true
	case "-":
		return x - y, true
	case "*":
		return x * y, true
	case "%":
		if y > 0 {
			return (x%y + y) % y, true
		}
	}
	return nil, false
}

func bigArithmetic(op string, x, y *big.Int) (Value, error) {
	z := new(big.Int)
	switch op {
	case "+":
		z.Add(x, y)
	case "-":
		z.Sub(x, y)
	case "*":
		if x.BitLen()+y.BitLen() > maxIntBits+1 {
			return nil, errIntSize
		}
		z.Mul(x, y)
	case "**":
		return bigPower(x, y)
	default:
		if y.Sign() == 0 {
			return nil, errDivideByZero
		}
		if op == "/" {
			f, _ := new(big.Rat).SetFrac(x, y).Float64()
			if math.IsInf(f, 0) {
				return nil, errors.New("integer division result too large for a float")
			}
			return float(f), nil
		}
		// QuoRem truncates; Python rounds the quotient down.
		r := new(big.Int)
		z.QuoRem(x, y, r)
		if r.Sign() != 0 && r.Sign() != y.Sign() {
			z.Sub(z, big.NewInt(1))
			r.Add(r, y)
		}
		if op == "%" {
			return normalInt(r), nil
		}
	}
	if z.BitLen() > maxIntBits {
		return nil, errIntSize
	}
	return normalInt(z), nil
}

var errIntSize = fmt.Errorf("integer of more than %d bits: %w", maxIntBits, ErrBudget)

func bigPower(x, y *big.Int) (Value, error) {
	if y.Sign() < 0 {
		f, _ := new(big.Float).SetInt(x).Float64()
		g, _ := new(big.Float).SetInt(y).Float64()
		return floatArithmetic("**", f, g)
	}
	if x.BitLen() <= 1 { // 0, 1, -1
		odd := y.Bit(0)
		if y.Sign() == 0 || x.Sign() < 0 && odd == 0 {
			return integer(1), nil
		}
		return normalInt(x), nil
	}
	if !y.IsInt64() || y.Int64() > maxIntBits || (x.BitLen()-1)*int(y.Int64()) > maxIntBits {
		return nil, errIntSize
	}
	return normalInt(new(big.Int).Exp(x, y, nil)), nil
}

func floatArithmetic(op string, x, y float64) (Value, error) {
	switch op {
	case "+":
		return float(x + y), nil
	case "-":
		return float(x - y), nil
	case "*":
		return float(x * y), nil
	case "**":
		return floatPower(x, y)
	}
	if y == 0 {
		return nil, errDivideByZero
	}
	if op == "/" {
		return float(x / y), nil
	}
	// Python's float_divmod.
	mod := math.Mod(x, y)
	div := (x - mod) / y
	if mod != 0 && (y < 0) != (mod < 0) {
		mod += y
		div--
	} else if mod == 0 {
		mod = math.Copysign(0, y)
	}
	if op == "%" {
		return float(mod), nil
	}
	if div == 0 {
		return float(math.Copysign(0, x/y)), nil
	}
	floor := math.Floor(div)
	if div-floor > 0.5 {
		floor++
	}
	return float(floor), nil
}

func floatPower(x, y float64) (Value, error) {
	if x == 0 && y < 0 {
		return nil, errors.New("0.0 cannot be raised to a negative power")
	}
	if x < 0 && y != math.Trunc(y) && !math.IsInf(x, 0) && !math.IsNaN(y) {
		return nil, errors.New("power of a negative number is complex")
	}
	z := math.Pow(x, y)
	if math.IsInf(z, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
		return nil, errors.New("numerical result out of range")
	}
	return float(z), nil
}

// compareNumbers returns the order of two numbers, exactly; ok is false with NaN.
func compareNumbers(a, b Value) (order int, ok bool) {
	x, ok1 := asInt(a)
	y, ok2 := asInt(b)
	if ok1 && ok2 {
		i, ok1 := x.(integer)
		j, ok2 := y.(integer)
		if ok1 && ok2 {
			switch {
			case i < j:
				return -1, true
			case i > j:
				return 1, true
			}
			return 0, true
		}
		return asBig(x).Cmp(asBig(y)), true
	}
	f, nan1 := exactFloat(a)
	g, nan2 := exactFloat(b)
	if nan1 || nan2 {
		return 0, false
	}
	return f.Cmp(g), true
}

func exactFloat(v Value) (f *big.Float, nan bool) {
	if x, ok := v.(float); ok {
		if math.IsNaN(float64(x)) {
			return nil, true
		}
		return big.NewFloat(float64(x)), false
	}
	i, _ := asInt(v)
	return new(big.Float).SetInt(asBig(i)), false
}
