package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A health check that runs longer is ended, as Argo CD does.
const luaTimeout = time.Second

// judge asks both tools about one object.
func judge(object *unstructured.Unstructured, script string) (verdict, error) {
	result, err := status.Compute(object)
	if err != nil {
		return verdict{}, fmt.Errorf("kstatus: %w", err)
	}
	health, message, err := argoHealth(object, script)
	if err != nil {
		return verdict{}, fmt.Errorf("health.lua: %w", err)
	}
	return verdict{kstatus: result.Status, argo: health, message: message}, nil
}

// argoHealth runs a health check the way Argo CD does: the object in the global obj, base and table
// libraries only, a time limit, and a table with status and message as the answer. An object that is
// being deleted is Progressing there before any script is asked.
func argoHealth(object *unstructured.Unstructured, script string) (string, string, error) {
	if object.GetDeletionTimestamp() != nil {
		return "Progressing", "Pending deletion", nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", "", fmt.Errorf("opening library %q: %w", name, err)
		}
	}
	deadline, cancel := context.WithTimeout(context.Background(), luaTimeout)
	defer cancel()
	state.SetContext(deadline)
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("it returned %s, not a table", state.Get(-1).Type())
	}
	health, isString := answer.RawGetString("status").(lua.LString)
	if !isString {
		return "", "", fmt.Errorf("status is %s, not a string", answer.RawGetString("status").Type())
	}
	message, isString := answer.RawGetString("message").(lua.LString)
	if !isString {
		return "", "", fmt.Errorf("message is %s, not a string", answer.RawGetString("message").Type())
	}
	switch health {
	case "Healthy", "Progressing", "Degraded", "Suspended":
		return string(health), string(message), nil
	}
	return "", "", fmt.Errorf("%q is no health status of Argo CD", health)
}

// toLua copies decoded JSON into Lua's values; every number becomes a float, as in Argo CD.
func toLua(state *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case []any:
		table := state.CreateTable(len(v), 0)
		for _, item := range v {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(v))
		for key, item := range v {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	}
	return lua.LNil
}
