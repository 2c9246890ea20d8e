//! The older form of tools: `functions` and `function_call` become `tools` and `tool_choice`, and what is refused is
//! named as it was sent. The answer's side is in `reply`.
use crate::error::ApiError;
use windlass_api::openai::{FunctionChoice, GenerateRequest, Tool, ToolChoice};

/// Puts functions in the place of tools. False if there are none.
pub fn as_tools(request: &mut GenerateRequest) -> Result<bool, ApiError> {
    const CHOICE: &str = "function_call";
    let kind = || "function".to_owned();
    let functions = request.functions.take().unwrap_or_default();
    let choice = request.function_call.take();
    let choice = match choice {
        None => None,
        Some(FunctionChoice::Mode(mode)) if ["none", "auto"].contains(&mode.as_str()) => Some(ToolChoice::Mode(mode)),
        Some(FunctionChoice::Mode(_)) => {
            return Err(ApiError::invalid(CHOICE, "it must be none, auto or a function"));
        }
        Some(FunctionChoice::Named(_)) if functions.is_empty() => {
            return Err(ApiError::invalid(CHOICE, "it needs `functions`"));
        }
        Some(FunctionChoice::Named(function)) => Some(ToolChoice::Named { kind: kind(), function }),
    };
    if functions.is_empty() {
        return Ok(false);
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        let message = "they are the older form of `tools`; send one of them";
        return Err(ApiError::invalid("functions", message));
    }
    let tool = |function| Tool {
        kind: kind(),
        function: Some(function),
    };
    request.tools = Some(functions.into_iter().map(tool).collect());
    request.tool_choice = choice;
    // The answer has room for one call.
    request.parallel_tool_calls = Some(false);
    Ok(true)
}

/// A refusal of tools as one of functions.
pub fn renamed(error: ApiError) -> ApiError {
    let name = |param: String| match param.as_str() {
        "tool_choice" => "function_call".to_owned(),
        tools => tools.replace("tools", "functions").replace("].function", "]"),
    };
    match error {
        ApiError::Invalid { param, message } => {
            let message = message.replace("`tools`", "`functions`").replace("tool", "function");
            ApiError::Invalid {
                param: name(param),
                message,
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use crate::tools::Tools;
    use serde_json::{Value, json};
    use windlass_api::openai::GenerateRequest;

    fn checked(body: Value) -> Result<Option<Tools>, (String, String)> {
        let mut request: GenerateRequest = serde_json::from_value(body).unwrap();
        Tools::new(&mut request).map_err(|error| {
            let error = error.body().error;
            (error.param.unwrap_or_default(), error.message)
        })
    }

    #[test]
    fn functions_are_tools_of_which_one_may_be_called() {
        let functions = json!([{"name": "f", "parameters": {"type": "object"}}, {"name": "g", "description": "d"}]);
        let tools = json!([
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g", "description": "d"}},
        ]);
        for (choice, newer) in [
            (json!(null), json!(null)),
            (json!("auto"), json!("auto")),
            (json!("none"), json!("none")),
            (
                json!({"name": "g"}),
                json!({"type": "function", "function": {"name": "g"}}),
            ),
        ] {
            let older = checked(json!({"functions": functions, "function_call": choice})).unwrap();
            let newer = checked(json!({"tools": tools, "tool_choice": newer, "parallel_tool_calls": false})).unwrap();
            let lark = |tools: &Option<Tools>| {
                tools
                    .as_ref()
                    .map(|tools| (tools.for_template(), tools.lark(true, true, None)))
            };
            assert_eq!(lark(&older), lark(&newer), "{choice}");
            assert!(older.is_none_or(|tools| tools.param() == "functions"));
            assert!(newer.is_none_or(|tools| tools.param() == "tools"));
        }
        for nothing in [
            json!({"functions": []}),
            json!({"functions": [], "function_call": "auto"}),
            json!({"function_call": "none"}),
        ] {
            assert_eq!(checked(nothing), Ok(None));
        }
    }

    #[test]
    fn what_is_wrong_is_named_as_it_was_sent() {
        let function = json!({"name": "f"});
        for (body, param) in [
            (json!({"functions": [{"name": "a b"}]}), "functions[0].name"),
            (json!({"functions": [function, function]}), "functions[1].name"),
            (
                json!({"functions": [{"name": "f", "parameters": 5}]}),
                "functions[0].parameters",
            ),
            (json!({"functions": vec![function.clone(); 129]}), "functions"),
            (
                json!({"functions": [function], "function_call": "required"}),
                "function_call",
            ),
            (
                json!({"functions": [function], "function_call": {"name": "g"}}),
                "function_call",
            ),
            (json!({"function_call": {"name": "f"}}), "function_call"),
            (json!({"function_call": "always"}), "function_call"),
            (
                json!({"functions": [function], "tools": [{"type": "function", "function": function}]}),
                "functions",
            ),
        ] {
            let (named, message) = checked(body.clone()).unwrap_err();
            assert_eq!(named, param, "{body}: {message}");
        }
    }
}
