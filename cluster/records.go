package cluster

import (
	"encoding/json"
	"fmt"
	"math"

	"drover/placement"
)

const (
	maxRecordBytes = 16 << 10
	maxFieldBytes  = 512
	// maxCapacityBytes is beyond any machine's memory, and small enough to add up.
	maxCapacityBytes = 1 << 50
)

// nodeRecord is the value of nodes/<id>.
type nodeRecord struct {
	Address       string  `json:"address"`
	Epoch         uint64  `json:"epoch"`
	CapacityBytes int64   `json:"capacity_bytes"`
	Speed         float64 `json:"speed,omitempty"`
	Domain        string  `json:"domain,omitempty"`
	KernelClass   string  `json:"kernel_class"`
	NumericMode   string  `json:"numeric_mode"`
	ModelDigest   string  `json:"model_digest"`
	ModelForm     string  `json:"model_form,omitempty"`
	// DigestFrom says where a node without weights of its own has the digest from.
	DigestFrom string `json:"digest_from,omitempty"`
	Host       string `json:"host,omitempty"`
	PID        int    `json:"pid,omitempty"`
	// Draining says that the node is about to leave.
	Draining bool `json:"draining,omitempty"`
	// Unable says that the node could not load what a plan gives it.
	Unable Unable `json:"unable,omitzero"`
}

func recordOf(n placement.Node, numericMode string) nodeRecord {
	return nodeRecord{
		Address: n.Address, Epoch: n.Epoch, CapacityBytes: n.CapacityBytes, Speed: n.Speed,
		Domain: n.Domain, KernelClass: n.KernelClass, NumericMode: numericMode,
		ModelDigest: n.ModelDigest, ModelForm: n.ModelForm,
		DigestFrom: n.DigestFrom, Host: n.Host, PID: n.PID, Draining: n.Draining,
	}
}

func (r nodeRecord) node(id string) placement.Node {
	return placement.Node{
		ID: id, Address: r.Address, Epoch: r.Epoch, CapacityBytes: r.CapacityBytes,
		Speed: r.Speed, Domain: r.Domain, KernelClass: r.KernelClass,
		ModelDigest: r.ModelDigest, ModelForm: r.ModelForm,
		DigestFrom: r.DigestFrom, Host: r.Host, PID: r.PID, Draining: r.Draining,
	}
}

// validate checks what a process says of itself, before it registers and when another
// one reads it.
func (r nodeRecord) validate() error {
	for what, s := range map[string]string{"address": r.Address, "domain": r.Domain,
		"kernel class": r.KernelClass, "numeric mode": r.NumericMode, "host": r.Host,
		"model form": r.ModelForm, "source of the digest": r.DigestFrom} {
		if len(s) > maxFieldBytes {
			return fmt.Errorf("%s of %d bytes, at most %d", what, len(s), maxFieldBytes)
		}
	}
	switch {
	case r.Address == "":
		return fmt.Errorf("no address; name the host:port that coordinators reach")
	case r.CapacityBytes < 0 || r.PID < 0:
		return fmt.Errorf("capacity %d and pid %d must not be negative", r.CapacityBytes, r.PID)
	case r.CapacityBytes > maxCapacityBytes:
		return fmt.Errorf("capacity of %d bytes, at most %d: no machine has so much memory",
			r.CapacityBytes, int64(maxCapacityBytes))
	case len(r.Unable.Reason) > maxFieldBytes || r.Unable.Failures < 0:
		return fmt.Errorf("a reason of %d bytes, at most %d, and %d failures",
			len(r.Unable.Reason), maxFieldBytes, r.Unable.Failures)
	case math.IsNaN(r.Speed) || math.IsInf(r.Speed, 0) || r.Speed < 0:
		return fmt.Errorf("speed %v, want a positive number", r.Speed)
	}
	return checkName("model digest", r.ModelDigest)
}

// readyRecord is the value of ready/<id>: the revision whose replicas this life of the
// node has loaded and tested.
type readyRecord struct {
	Epoch    uint64 `json:"epoch"`
	Revision uint64 `json:"revision"`
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the records hold numbers and strings, and no NaN passes validate
	}
	return b
}

func decodeNode(value []byte) (r nodeRecord, err error) {
	if err := decodeJSON(value, &r); err != nil {
		return r, err
	}
	return r, r.validate()
}

func decodeJSON(value []byte, into any) error {
	if len(value) > maxRecordBytes {
		return fmt.Errorf("a record of %d bytes, at most %d", len(value), maxRecordBytes)
	}
	return json.Unmarshal(value, into)
}
