package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"drover/internal/identity"
)

// OfCertificates tells when the certificates of a process expire that are in force, and who
// signed them, by what they are for.
func OfCertificates(all map[string]*identity.Source) prometheus.Collector {
	expiry := gauge("drover_certificate_expiry_timestamp_seconds",
		"When a certificate of the process expires, or who signed it.", "port", "kind")
	return collect(func(ch chan<- prometheus.Metric) {
		for port, s := range all {
			for kind, at := range map[string]time.Time{"certificate": s.NotAfter(),
				"authority": s.SignedUntil()} {
				expiry.put(ch, float64(at.Unix()), port, kind)
			}
		}
	})
}
