package charts

import (
	"encoding/json"
	"os"
	"testing"
)

// etcd takes 1.5 MB, but the annotation of client-side apply only 256 KB; with the operator's own copy of
// the schema in mind, this is where a CRD has become too large.
const largestDefinition = 200 << 10

func TestTheDefinitionsOutliveTheirChart(t *testing.T) {
	for _, crd := range definitions(t) {
		if crd.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("helm uninstall would delete %s, and with it every object of its kind", crd.Name)
		}
	}
	if _, err := os.Stat(crdsChart + "/crds"); err == nil {
		t.Error("Helm never upgrades what is in crds/; definitions belong into templates/")
	}
}

func TestANewObjectReadsAsInProgress(t *testing.T) {
	for _, crd := range definitions(t) {
		for _, version := range crd.Spec.Versions {
			status := version.Schema.OpenAPIV3Schema.Properties["status"]
			if status.Default == nil || string(status.Default.Raw) != `{"observedGeneration":-1}` {
				t.Errorf("%s %s: the default of status is %v", crd.Name, version.Name, status.Default)
			}
			if version.Subresources == nil || version.Subresources.Status == nil {
				t.Errorf("%s %s has no status subresource: users could write it", crd.Name, version.Name)
			}
		}
	}
}

func TestTheDefinitionsStaySmall(t *testing.T) {
	for _, crd := range definitions(t) {
		text, err := json.Marshal(crd)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > largestDefinition {
			t.Errorf("%s has %d bytes", crd.Name, len(text))
		}
	}
}
