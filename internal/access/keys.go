// Package access says who may ask a coordinator for what: by API keys, or by certificates
// of the cluster.
package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scope is a part of what can be asked.
type Scope string

// Infer asks the model; Admin looks at the cluster and changes it, too.
const (
	Infer Scope = "infer"
	Admin Scope = "admin"
)

// Bounds of a file of keys.
const (
	maxKeys     = 10000
	maxSameName = 8
	maxName     = 64
)

// prefix begins every key, so that a leaked one is found.
const prefix = "drover"

// Key is what a file knows of one key: not the key. A key has at least 256 random bits, so
// that nobody finds it by trying, however fast a hash is; the salt keeps two files from
// telling that they hold the same key.
type Key struct {
	Name             string
	Scopes           []Scope
	Created, Expires time.Time // no Expires: never
	salt             [16]byte
	sum              [32]byte
}

// Keys is a file of keys. Several keys may have one name, while one replaces the other.
type Keys struct {
	byName map[string][]Key
}

// New makes a key: its text, to be shown once, and what a file knows of it.
func New(name string, scopes []Scope, created, expires time.Time) (text string, k Key, err error) {
	k = Key{Name: name, Scopes: scopes, Created: created, Expires: expires}
	if err := k.check(); err != nil {
		return "", Key{}, err
	}
	if _, err := rand.Read(k.salt[:]); err != nil {
		return "", Key{}, err
	}
	text = strings.Join([]string{prefix, name, strings.ToLower(rand.Text() + rand.Text())}, "_")
	k.sum = k.hash(text)
	return text, k, nil
}

func (k *Key) hash(text string) [32]byte {
	return sha256.Sum256(append(k.salt[:len(k.salt):len(k.salt)], text...))
}

func (k *Key) check() error {
	if k.Name == "" || len(k.Name) > maxName {
		return fmt.Errorf("name %q, want 1 to %d bytes", k.Name, maxName)
	}
	for _, c := range []byte(k.Name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return fmt.Errorf("name %q, want small letters, digits, dots and -", k.Name)
		}
	}
	if len(k.Scopes) == 0 {
		return errors.New("no scope, want infer, admin or both")
	}
	for _, s := range k.Scopes {
		if s != Infer && s != Admin {
			return fmt.Errorf("scope %q is unknown: infer or admin", s)
		}
	}
	return nil
}

// Line is how a file holds a key:
//
//	NAME sha256:SALT:HASH scopes=infer,admin created=TIME [expires=TIME]
func (k *Key) Line() string {
	scopes := make([]string, len(k.Scopes))
	for i, s := range k.Scopes {
		scopes[i] = string(s)
	}
	line := fmt.Sprintf("%s sha256:%x:%x scopes=%s created=%s", k.Name, k.salt, k.sum,
		strings.Join(scopes, ","), k.Created.UTC().Format(time.RFC3339))
	if !k.Expires.IsZero() {
		line += " expires=" + k.Expires.UTC().Format(time.RFC3339)
	}
	return line
}

// Parse reads a file of keys. Empty lines and those that begin with # are skipped.
func Parse(text []byte) (*Keys, error) {
	all := &Keys{byName: map[string][]Key{}}
	n := 0
	for i, line := range bytes.Split(text, []byte("\n")) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		k, err := parseLine(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if n++; n > maxKeys {
			return nil, fmt.Errorf("line %d: more than %d keys", i+1, maxKeys)
		}
		if len(all.byName[k.Name]) == maxSameName {
			return nil, fmt.Errorf("line %d: more than %d keys of the name %q", i+1, maxSameName, k.Name)
		}
		all.byName[k.Name] = append(all.byName[k.Name], k)
	}
	return all, nil
}

func parseLine(fields []string) (k Key, err error) {
	if len(fields) < 2 {
		return k, errors.New("want NAME sha256:SALT:HASH scopes=… created=…")
	}
	k.Name = fields[0]
	hash := strings.Split(fields[1], ":")
	if len(hash) != 3 || hash[0] != "sha256" || !unhex(k.salt[:], hash[1]) ||
		!unhex(k.sum[:], hash[2]) {
		return k, errors.New("the hash is not sha256:SALT:HASH")
	}
	k.Scopes = []Scope{Infer}
	for _, f := range fields[2:] {
		name, value, _ := strings.Cut(f, "=")
		switch name {
		case "scopes":
			k.Scopes = nil
			for s := range strings.SplitSeq(value, ",") {
				k.Scopes = append(k.Scopes, Scope(s))
			}
		case "created":
			k.Created, err = time.Parse(time.RFC3339, value)
		case "expires":
			k.Expires, err = time.Parse(time.RFC3339, value)
			if err == nil && k.Expires.IsZero() {
				err = errors.New("expires=0001-01-01 is no time")
			}
		default:
			err = fmt.Errorf("%q is unknown: scopes, created or expires", name)
		}
		if err != nil {
			return k, err
		}
	}
	return k, k.check()
}

func unhex(to []byte, text string) bool {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(to) {
		return false
	}
	copy(to, b)
	return true
}

// Errors of Check, for clients: neither says which names exist.
var (
	errWrong   = errors.New("the API key is not valid here")
	errExpired = errors.New("the API key has expired")
)

// Check returns what is known of a key. All keys of its name are compared, whichever fits,
// and in constant time.
func (a *Keys) Check(text string, now time.Time) (Key, error) {
	parts := strings.SplitN(text, "_", 3)
	if len(parts) != 3 || parts[0] != prefix {
		return Key{}, errWrong
	}
	found, ok := Key{}, false
	for _, k := range a.byName[parts[1]] {
		if sum := k.hash(text); subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1 {
			found, ok = k, true
		}
	}
	switch {
	case !ok:
		return Key{}, errWrong
	case !found.Expires.IsZero() && !now.Before(found.Expires):
		return Key{}, errExpired
	}
	return found, nil
}

// Allows tells whether a key is good for a scope.
func (k *Key) Allows(s Scope) bool { return slices.Contains(k.Scopes, s) }
