package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// strftime formats t like the C library in the C locale. Time zones are empty, as for Python's
// naive datetime.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		pad := byte(0)
		if (format[i] == '-' || format[i] == '_') && i+1 < len(format) {
			pad = format[i]
			i++
		}
		s, ok := strftimeText(t, format[i])
		if n, width, fill, isNumber := strftimeNumber(t, format[i]); isNumber {
			switch pad {
			case '-':
				width = 1
			case '_':
				fill = ' '
			}
			s, ok = strconv.Itoa(n), true
			s = strings.Repeat(string(fill), max(0, width-len(s))) + s
		}
		if !ok { // unknown directives stay as they are
			s = "%" + format[i:i+1]
			if pad != 0 {
				s = "%" + string(pad) + format[i:i+1]
			}
		}
		b.WriteString(s)
	}
	return b.String()
}

// strftimeText gives the directives that are not one number.
func strftimeText(t time.Time, c byte) (string, bool) {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'p': "PM",
		'c': "Mon Jan _2 15:04:05 2006", 'D': "01/02/06", 'x': "01/02/06", 'F': "2006-01-02",
		'T': "15:04:05", 'X': "15:04:05", 'R': "15:04", 'r': "03:04:05 PM", 'P': "pm",
	}
	if layout, ok := layouts[c]; ok {
		return t.Format(layout), true
	}
	switch c {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 'z', 'Z':
		return "", true
	}
	return "", false
}

// strftimeNumber gives the directives that are numbers, with their width and fill.
func strftimeNumber(t time.Time, c byte) (n, width int, fill byte, ok bool) {
	weekday, day := int(t.Weekday()), t.YearDay()
	isoYear, isoWeek := t.ISOWeek()
	hour12 := (t.Hour()+11)%12 + 1
	switch c {
	case 'd':
		return t.Day(), 2, '0', true
	case 'e':
		return t.Day(), 2, ' ', true
	case 'H':
		return t.Hour(), 2, '0', true
	case 'k':
		return t.Hour(), 2, ' ', true
	case 'I':
		return hour12, 2, '0', true
	case 'l':
		return hour12, 2, ' ', true
	case 'j':
		return day, 3, '0', true
	case 'm':
		return int(t.Month()), 2, '0', true
	case 'M':
		return t.Minute(), 2, '0', true
	case 'S':
		return t.Second(), 2, '0', true
	case 'U':
		return (day + 6 - weekday) / 7, 2, '0', true
	case 'W':
		return (day + 6 - (weekday+6)%7) / 7, 2, '0', true
	case 'V':
		return isoWeek, 2, '0', true
	case 'G':
		return isoYear, 4, '0', true
	case 'g':
		return isoYear % 100, 2, '0', true
	case 'u':
		return (weekday+6)%7 + 1, 1, '0', true
	case 'w':
		return weekday, 1, '0', true
	case 'y':
		return t.Year() % 100, 2, '0', true
	case 'Y':
		return t.Year(), 1, '0', true
	case 'C':
		return t.Year() / 100, 2, '0', true
	case 's':
		return int(t.Unix()), 1, '0', true
	}
	return 0, 0, 0, false
}
