-- How Argo CD reads a ModelDeployment. It follows kstatus, the rule Flux and kubectl-based tools use, so that
-- all of them say the same; only suspension and zero pods on purpose, which kstatus does not know, are reported as Suspended.
-- Argo CD runs this without Lua's string library; keep to the base language.
local health = {status = "Progressing", message = "Waiting for the operator"}
local status = obj.status

-- A new object carries observedGeneration -1, an edited one the previous generation.
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is_true(condition)
  return condition ~= nil and condition.status == "True"
end

local ready = conditions.Ready
if obj.spec.suspend == true or (ready ~= nil and ready.reason == "ScaledToZero") then
  health.status = "Suspended"
  health.message = ready ~= nil and ready.message or "spec.suspend is set"
elseif is_true(conditions.Stalled) then
  -- Only what an edit of the spec must fix ends here: an unschedulable pod or a missing file keeps progressing.
  health.status = "Degraded"
  health.message = conditions.Stalled.message
elseif is_true(conditions.Reconciling) then
  health.message = conditions.Reconciling.message
elseif is_true(ready) then
  health.status = "Healthy"
  health.message = ready.message
elseif ready ~= nil then
  health.message = ready.message
end
return health
