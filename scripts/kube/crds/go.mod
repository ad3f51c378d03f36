// The modules of which a test cluster takes the definitions of objects: nothing is built here.
module drover/scripts/kube/crds

go 1.26

require (
	github.com/cert-manager/cert-manager v1.19.1
	github.com/kedacore/keda/v2 v2.18.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.0
)
