package main

import (
	"os"
	"strings"
	"testing"

	helm "github.com/fluxcd/helm-controller/api/v2"
	kustomize "github.com/fluxcd/kustomize-controller/api/v1"
	source "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/yaml"
)

// An example with a field that Flux does not have would be refused by its CRDs, or silently pruned.
func TestTheFluxExampleHasOnlyFieldsThatFluxKnows(t *testing.T) {
	text, err := os.ReadFile("../../deploy/gitops/flux/windlass.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var head struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		into := map[string]any{
			"GitRepository": &source.GitRepository{},
			"HelmRelease":   &helm.HelmRelease{},
			"Kustomization": &kustomize.Kustomization{},
		}[head.Kind]
		if into == nil {
			t.Errorf("no type for kind %q", head.Kind)
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			t.Errorf("%s: %v", head.Kind, err)
		}
		kinds[head.Kind]++
		if k, ok := into.(*kustomize.Kustomization); ok {
			if len(k.Spec.HealthChecks) != 1 || k.Spec.HealthChecks[0].Kind != "ModelDeployment" {
				t.Errorf("the health checks are %v", k.Spec.HealthChecks)
			}
		}
	}
	if kinds["HelmRelease"] != 2 || kinds["Kustomization"] != 1 {
		t.Errorf("the example has %v", kinds)
	}
}
