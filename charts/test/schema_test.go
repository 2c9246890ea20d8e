package charts

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// The versions of Kubernetes that the charts support: from Chart.yaml's kubeVersion to the newest known.
var versions = []string{"1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"}

// newValidator makes kubeconform in its strict form: unknown fields and kinds without schema are errors.
// The kinds of Kubernetes come from $WINDLASS_SCHEMAS, those of Windlass from the CRD itself.
func newValidator(t *testing.T, version string) validator.Validator {
	t.Helper()
	schemas := os.Getenv("WINDLASS_SCHEMAS")
	if schemas == "" {
		t.Fatal("WINDLASS_SCHEMAS does not name the folder of API schemas; run charts/check, which fetches them")
	}
	crds := t.TempDir()
	for _, crd := range definitions(t) {
		writeSchema(t, crds, crd)
	}
	made, err := validator.New([]string{
		filepath.Join(schemas, "{{.NormalizedKubernetesVersion}}-local{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json"),
		filepath.Join(crds, "{{.Group}}-{{.ResourceAPIVersion}}-{{.ResourceKind}}.json"),
	}, validator.Opts{KubernetesVersion: version, Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// definitions are the CRDs as the chart windlass-crds renders them.
func definitions(t *testing.T) []*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	out, err := helm("template", "windlass-crds", crdsChart)
	if err != nil {
		t.Fatal(err)
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for _, object := range parse(t, out) {
		crds = append(crds, typed[apiextensionsv1.CustomResourceDefinition](t, object))
	}
	if len(crds) == 0 {
		t.Fatal("the chart windlass-crds is empty")
	}
	return crds
}

// writeSchema turns a CRD's schema into JSON schema: the same language, but for fields that the API server
// would prune, which are forbidden here, and int-or-string, which JSON schema spells out.
func writeSchema(t *testing.T, folder string, crd *apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	for _, version := range crd.Spec.Versions {
		text, err := json.Marshal(version.Schema.OpenAPIV3Schema)
		if err != nil {
			t.Fatal(err)
		}
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		properties := schema["properties"].(map[string]any)
		properties["apiVersion"], properties["kind"] = map[string]any{"type": "string"}, map[string]any{"type": "string"}
		properties["metadata"] = map[string]any{"type": "object", "required": []string{"name"}}
		text, err = json.Marshal(closed(schema))
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ToLower(crd.Spec.Group + "-" + version.Name + "-" + crd.Spec.Names.Kind + ".json")
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// closed forbids, at every depth, properties that the schema does not list.
func closed(schema any) any {
	switch node := schema.(type) {
	case []any:
		for i := range node {
			node[i] = closed(node[i])
		}
	case map[string]any:
		for key := range node {
			node[key] = closed(node[key])
		}
		if node["x-kubernetes-int-or-string"] == true {
			node["type"] = []string{"integer", "string"}
		}
		_, listed := node["properties"].(map[string]any)
		if listed && node["type"] == "object" && node["additionalProperties"] == nil {
			node["additionalProperties"] = false
		}
	}
	return schema
}

// complaints validates a YAML stream and returns what is wrong with it.
func complaints(v validator.Validator, name, text string) []string {
	var found []string
	for _, result := range v.Validate(name, io.NopCloser(strings.NewReader(text))) {
		if result.Status == validator.Valid || result.Status == validator.Empty {
			continue
		}
		found = append(found, result.Err.Error())
	}
	return found
}

// ofKubernetes leaves out objects of the Prometheus operator, whose schema no package carries.
func ofKubernetes(text string) string {
	var kept []string
	for _, document := range strings.Split(text, "\n---\n") {
		if !strings.Contains(document, "apiVersion: monitoring.coreos.com/") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "\n---\n")
}

func TestEverySetOfValuesRendersToObjectsThatEverySupportedVersionAccepts(t *testing.T) {
	for _, version := range versions {
		v := newValidator(t, version)
		for name, file := range valuesFiles(t) {
			t.Run(version+" "+name, func(t *testing.T) {
				for _, complaint := range complaints(v, name, ofKubernetes(renderText(t, "--values", file))) {
					t.Error(complaint)
				}
			})
		}
	}
}

func TestEverySampleIsAccepted(t *testing.T) {
	v := newValidator(t, versions[len(versions)-1])
	for name, text := range sampleFiles(t) {
		t.Run(name, func(t *testing.T) {
			for _, complaint := range complaints(v, name, text) {
				t.Error(complaint)
			}
		})
	}
}

func TestASampleWithAMisspeltFieldOrAWrongTypeWouldBeRefused(t *testing.T) {
	v := newValidator(t, versions[len(versions)-1])
	quickstart := sampleFiles(t)["quickstart.yaml"]
	for old, broken := range map[string]string{
		"contextLength: 2048": "contextLenght: 2048",
		"maxSequences: 4":     "maxSequences: four",
		"kind: Namespace":     "kind: Namespaces",
		"    source: hf":      "    origin: hf",
		"  labels:\n":         "  label:\n",
	} {
		if !strings.Contains(quickstart, old) {
			t.Errorf("quickstart.yaml has no %q any more: adapt this test", old)
		}
		if len(complaints(v, "quickstart.yaml", strings.Replace(quickstart, old, broken, 1))) == 0 {
			t.Errorf("%q was accepted", broken)
		}
	}
}

// sampleFiles are the texts of deploy/samples, by name.
func sampleFiles(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../deploy/samples/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	files := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(text)
	}
	return files
}
