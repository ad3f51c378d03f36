package etcdserver

import (
	"fmt"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger returns etcd's logger: silent but for warnings and worse, which go to warn.
// A fatal message ends its goroutine, since a library must not end the process.
func logger(warn func(string)) *zap.Logger {
	if warn == nil {
		warn = func(string) {}
	}
	return zap.New(core{zapcore.WarnLevel, warn, nil}, zap.WithFatalHook(zapcore.WriteThenGoexit))
}

// core passes each entry on as one line.
type core struct {
	zapcore.LevelEnabler
	warn   func(string)
	fields []zapcore.Field
}

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	line := e.Message
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
		if v, ok := values.Fields[f.Key]; ok {
			line += fmt.Sprintf(" %s=%v", f.Key, v)
		}
	}
	c.warn(strings.ReplaceAll(line, "\n", " "))
	return nil
}

// Sync implements zapcore.Core.
func (core) Sync() error { return nil }
