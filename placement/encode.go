package placement

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A record is: the two bytes of recordMagic, then unsigned varints. Revision; layer
// count and the layers; experts; node count and, each after its length, the node IDs;
// for each layer and expert the replica count and the node indices. Layers and node
// indices are written as their distance to the one before, less one.
//
// With up to 128 nodes a replica costs one byte, and so does an expert: two replicas
// of 58 layers of 256 experts are 44 KB.
const (
	recordMagic    = "\xd7\x01"
	maxRecordBytes = 512 << 10
)

var errRecord = errors.New("placement: plan record is cut short or malformed")

// Encode returns the plan as a compact record. The plan must be valid.
func (p *Plan) Encode() []byte {
	b := make([]byte, 0, 64+len(p.NodeIDs)*16+len(p.Layers)*p.Experts*3)
	b = append(b, recordMagic...)
	b = binary.AppendUvarint(b, p.Revision)
	b = binary.AppendUvarint(b, uint64(len(p.Layers)))
	last := -1
	for _, l := range p.Layers {
		b = binary.AppendUvarint(b, uint64(l-last-1))
		last = l
	}
	b = binary.AppendUvarint(b, uint64(p.Experts))
	b = binary.AppendUvarint(b, uint64(len(p.NodeIDs)))
	for _, id := range p.NodeIDs {
		b = binary.AppendUvarint(b, uint64(len(id)))
		b = append(b, id...)
	}
	for _, experts := range p.Replicas {
		for _, on := range experts {
			b = binary.AppendUvarint(b, uint64(len(on)))
			last := -1
			for _, n := range on {
				b = binary.AppendUvarint(b, uint64(int(n)-last-1))
				last = int(n)
			}
		}
	}
	return b
}

// Decode reads a record of Encode and validates the plan in it. Whatever the record
// claims, Decode allocates no more than a small multiple of its length.
func Decode(record []byte) (*Plan, error) {
	if len(record) > maxRecordBytes {
		return nil, fmt.Errorf("placement: plan record of %d bytes, at most %d",
			len(record), maxRecordBytes)
	}
	if len(record) < len(recordMagic) || string(record[:len(recordMagic)]) != recordMagic {
		return nil, errors.New("placement: not a plan record, or of another version of Drover")
	}
	r := reader{rest: record[len(recordMagic):]}
	p := &Plan{Revision: r.number(1<<64 - 1)}
	if n := r.count(MaxLayers); n > 0 {
		p.Layers = make([]int, n)
	}
	last := -1
	for i := range p.Layers {
		last += 1 + int(r.number(maxLayerIndex))
		p.Layers[i] = last
	}
	p.Experts = int(r.number(MaxExperts))
	if n := r.count(MaxNodes); n > 0 {
		p.NodeIDs = make([]string, n)
	}
	for i := range p.NodeIDs {
		p.NodeIDs[i] = r.text(MaxIDBytes)
	}
	// Each expert takes at least one byte.
	if r.bad || len(p.Layers)*p.Experts > len(r.rest) {
		return nil, errRecord
	}
	p.Replicas = r.replicas(len(p.Layers), p.Experts, len(p.NodeIDs))
	if r.bad || len(r.rest) > 0 {
		return nil, errRecord
	}
	return p, p.Validate()
}

// reader takes numbers from a record; after the first malformed one it is bad and
// returns zeros.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(most uint64) uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > most || n > 1 && r.rest[n-1] == 0 {
		r.bad, r.rest = true, nil // also a number that could have been shorter
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads the length of a list, each element of which takes at least one byte.
func (r *reader) count(most int) int {
	n := int(r.number(uint64(most)))
	if n > len(r.rest) {
		r.bad = true
		return 0
	}
	return n
}

func (r *reader) text(most int) string {
	n := r.count(most)
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) replicas(layers, experts, nodes int) [][][]uint16 {
	if layers == 0 {
		return nil
	}
	all := make([][][]uint16, layers)
	for l := range all {
		all[l] = make([][]uint16, experts)
		for e := range all[l] {
			on := make([]uint16, r.count(nodes))
			last := -1
			for i := range on {
				last += 1 + int(r.number(MaxNodes))
				if last >= nodes {
					r.bad = true
					return nil
				}
				on[i] = uint16(last)
			}
			all[l][e] = on
		}
	}
	return all
}
