package charts

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestBadValuesAreRefusedWithTheirPath(t *testing.T) {
	for name, c := range map[string]struct{ value, complaint string }{
		"a misspelt key":                 {`operater={"replicas":2}`, "additional properties 'operater' not allowed"},
		"a misspelt key further in":      {`operator={"replica":2}`, "additional properties 'replica' not allowed"},
		"no replica":                     {`operator.replicas=0`, "/operator/replicas"},
		"three replicas":                 {`operator.replicas=3`, "/operator/replicas"},
		"replicas as text":               {`operator.replicas="2"`, "/operator/replicas"},
		"an image with a space":          {`images.server="windlass.dev/server :1"`, "/images/server"},
		"an empty image":                 {`images.operator=""`, "/images/operator"},
		"a digest that is none":          {`images.registry="windlass.dev/registry@sha256:abc"`, "/images/registry"},
		"a prefix with a scheme":         {`images.prefix="https://registry.example.com"`, "/images/prefix"},
		"a pull policy of no kubelet":    {`images.pullPolicy="Sometimes"`, "/images/pullPolicy"},
		"a hub without scheme":           {`hub.url="hub.example.com"`, "/hub/url"},
		"a hub with credentials":         {`hub.url="https://me:secret@hub.example.com"`, "/hub/url"},
		"a hub that is a file":           {`hub.url="file:///etc/passwd"`, "/hub/url"},
		"a namespace that is a wildcard": {`watchNamespaces=["*"]`, "/watchNamespaces/0"},
		"a namespace twice":              {`watchNamespaces=["a","a"]`, "/watchNamespaces"},
		"namespaces as text":             {`watchNamespaces="a,b"`, "/watchNamespaces"},
		"a label key that is none":       {`accelerators.productLabel="gpu product"`, "/accelerators/productLabel"},
		"an empty label key":             {`accelerators.memoryLabel=""`, "/accelerators/memoryLabel"},
		"an unknown log level":           {`logLevel="loud"`, "/logLevel"},
		"a pull secret as text":          {`imagePullSecrets=["mine"]`, "/imagePullSecrets/0"},
		"an unknown toleration field":    {`operator.tolerations=[{"keys":"a"}]`, "/operator/tolerations/0"},
		"a label that is a number":       {`operator.podLabels={"a":1}`, "/operator/podLabels/a"},
		"a port out of range":            {`networkPolicy.dnsPorts=[70000]`, "/networkPolicy/dnsPorts/0"},
		"no address of the API server":   {`networkPolicy.apiServer.cidrs=[]`, "/networkPolicy/apiServer/cidrs"},
		"a peer that selects nothing":    {`networkPolicy.metricsFrom=[{}]`, "/networkPolicy/metricsFrom/0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := helm("template", release, chart, "--set-json", c.value)
			if err == nil {
				t.Fatalf("%s was accepted", c.value)
			}
			// Helm writes pointers with dots or slashes, depending on the library below it.
			if complaint := err.Error(); !strings.Contains(complaint, c.complaint) && !strings.Contains(complaint, strings.ReplaceAll(strings.TrimPrefix(c.complaint, "/"), "/", ".")) {
				t.Errorf("the complaint does not name %q:\n%s", c.complaint, complaint)
			}
		})
	}
}

func TestTheReadmeNamesEveryValue(t *testing.T) {
	readme, err := os.ReadFile(chart + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	for _, path := range leaves("", values) {
		if !strings.Contains(string(readme), "| `"+path+"` |") {
			t.Errorf("README.md has no row for %s", path)
		}
	}
}

// free are maps whose keys the user chooses: one row for the whole.
var free = map[string]bool{"operator.resources": true}

func leaves(path string, value any) []string {
	object, isObject := value.(map[string]any)
	if !isObject || len(object) == 0 || free[path] {
		return []string{path}
	}
	var paths []string
	for key, inner := range object {
		paths = append(paths, leaves(strings.TrimPrefix(path+"."+key, "."), inner)...)
	}
	return paths
}
