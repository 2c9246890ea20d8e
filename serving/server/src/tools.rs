//! The tools of a chat: what the model may call, checked, as its template takes them and as a grammar for its
//! answer. Calls are in the form that Hermes models brought up, and Qwen's and others took over.
use crate::error::ApiError;
use crate::functions;
use crate::structured::{quoted, with_options};
use serde_json::{Value, json};
use windlass_api::openai::{FunctionTool, GenerateRequest, Tool, ToolChoice};
use windlass_engine::grammar::Grammar;
use windlass_engine::tokenizer::Tokenizer;

/// Tools of a request.
pub const MAX_TOOLS: usize = 128;
/// Bytes of a function's name.
pub const MAX_NAME_BYTES: usize = 64;
/// Calls of an answer that must have one: small models do not end by themselves.
const MAX_REQUIRED_CALLS: usize = 16;
/// Begins a call.
pub const OPEN: &str = "<tool_call>";
/// Ends a call.
pub const CLOSE: &str = "</tool_call>";

/// What may, or must, be called; at least one tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    tools: Vec<FunctionTool>,
    required: bool,
    parallel: bool,
    /// They came as `functions`, and are called in that form.
    older_form: bool,
}

impl Tools {
    /// The tools of a request, in either form, if it has any that may be called.
    pub fn new(request: &mut GenerateRequest) -> Result<Option<Self>, ApiError> {
        if !functions::as_tools(request)? {
            return Self::of_tools(request);
        }
        let tools = Self::of_tools(request).map_err(functions::renamed)?;
        Ok(tools.map(|tools| Self {
            older_form: true,
            ..tools
        }))
    }

    /// Whether they came, and are called, in the older form.
    pub fn older_form(&self) -> bool {
        self.older_form
    }

    /// The field that they came from.
    pub fn param(&self) -> &'static str {
        if self.older_form { "functions" } else { "tools" }
    }

    fn of_tools(request: &mut GenerateRequest) -> Result<Option<Self>, ApiError> {
        let tools = request.tools.take().unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::invalid("tools", format!("at most {MAX_TOOLS} are allowed")));
        }
        let tools = tools.into_iter().enumerate().map(|(index, tool)| function(index, tool));
        let mut tools: Vec<FunctionTool> = tools.collect::<Result<_, _>>()?;
        for (index, tool) in tools.iter().enumerate() {
            if tools[..index].iter().any(|other| other.name == tool.name) {
                return Err(ApiError::invalid(
                    format!("tools[{index}].function.name"),
                    "another tool has it",
                ));
            }
        }
        const CHOICE: &str = "tool_choice";
        let mut parallel = request.parallel_tool_calls.unwrap_or(true);
        let required = match request.tool_choice.take() {
            None => false,
            Some(ToolChoice::Mode(mode)) => match mode.as_str() {
                "auto" => false,
                "none" => return Ok(None),
                "required" => true,
                _ => {
                    return Err(ApiError::invalid(
                        CHOICE,
                        "it must be none, auto, required or a function",
                    ));
                }
            },
            Some(ToolChoice::Named { kind, function }) => {
                if kind != "function" || !tools.iter().any(|tool| tool.name == function.name) {
                    return Err(ApiError::invalid(CHOICE, "it must be a function of `tools`"));
                }
                tools.retain(|tool| tool.name == function.name);
                parallel = false;
                true
            }
        };
        if tools.is_empty() && required {
            return Err(ApiError::invalid(CHOICE, "it needs `tools`"));
        }
        Ok((!tools.is_empty()).then_some(Self {
            tools,
            required,
            parallel,
            older_form: false,
        }))
    }

    /// As templates take them.
    pub fn for_template(&self) -> Value {
        let tool = |tool: &FunctionTool| {
            let mut function = json!({ "name": tool.name });
            if let Some(description) = &tool.description {
                function["description"] = description.as_str().into();
            }
            if let Some(parameters) = &tool.parameters {
                function["parameters"] = parameters.clone();
            }
            json!({"type": "function", "function": function})
        };
        self.tools.iter().map(tool).collect()
    }

    /// The answers that are well-formed: calls; or text, if there may be text. That is free until a call begins, or, with
    /// a schema for it, JSON without calls.
    pub fn grammar(&self, tokenizer: &Tokenizer, text: Option<&Value>) -> Grammar {
        let one_token = |mark: &str| tokenizer.encode(mark, true).len() == 1;
        Grammar::Lark(self.lark(one_token(OPEN), one_token(CLOSE), text.filter(|_| !self.required)))
    }

    /// `open` and `close`: whether the marks are tokens of their own, which free text does not have.
    pub(crate) fn lark(&self, open: bool, close: bool, text: Option<&Value>) -> String {
        let free = !self.required && text.is_none();
        let begin = match (open, free) {
            (true, _) => OPEN,
            (false, false) => &quoted(OPEN),
            (false, true) => "head",
        };
        let end = if close { CLOSE } else { &quoted(CLOSE) };
        let several = format!("call (\"\\n\" call){{0,{}}}", MAX_REQUIRED_CALLS - 1);
        let start = match (free, open, self.parallel) {
            (false, _, true) => &several,
            (false, _, false) => "call",
            (true, true, true) => "TEXT (call TEXT)*",
            (true, true, false) => "TEXT call?",
            (true, false, true) => "call* TEXT",
            (true, false, false) => "call | TEXT",
        };
        let mut lark = match text {
            None => format!("start: {start}\n"),
            Some(schema) => format!("start: {start} | text\ntext: %json {schema}\n"),
        };
        if free {
            lark += "TEXT: /(.|\\n)*/\n";
            if !open {
                lark += &format!("head[lazy]: TEXT {}\n", quoted(OPEN));
            }
        }
        let calls: Vec<String> = (0..self.tools.len()).map(|at| format!("call{at}")).collect();
        lark += &format!("call: {begin} ({}) {end}\n", calls.join(" | "));
        for (at, tool) in self.tools.iter().enumerate() {
            let head = quoted(&format!("\n{{\"name\": {}, \"arguments\": ", quoted(&tool.name)));
            let schema = arguments(tool);
            lark += &format!("call{at}: {head} args{at} \"}}\\n\"\nargs{at}: %json {schema}\n");
        }
        lark
    }
}

/// The schema of a call's arguments, always an object.
fn arguments(tool: &FunctionTool) -> Value {
    let none = || json!({"properties": {}, "additionalProperties": false});
    let mut schema = tool.parameters.clone().unwrap_or_else(none);
    if let Value::Object(fields) = &mut schema {
        fields.entry("type").or_insert_with(|| "object".into());
    }
    with_options(schema, tool.strict != Some(true))
}

fn function(index: usize, tool: Tool) -> Result<FunctionTool, ApiError> {
    let at = |field: &str| format!("tools[{index}].{field}");
    if tool.kind != "function" {
        return Err(ApiError::invalid(at("type"), "it must be function"));
    }
    let function = tool
        .function
        .ok_or_else(|| ApiError::invalid(at("function"), "it is missing"))?;
    let plain = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
    if !(1..=MAX_NAME_BYTES).contains(&function.name.len()) || !function.name.chars().all(plain) {
        let message = format!("1 to {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores are allowed");
        return Err(ApiError::invalid(at("function.name"), message));
    }
    let is_object = |schema: &Value| {
        schema
            .as_object()
            .is_some_and(|fields| fields.get("type").is_none_or(|kind| kind == "object"))
    };
    if !function.parameters.as_ref().is_none_or(is_object) {
        let message = "it must be the JSON schema of an object";
        return Err(ApiError::invalid(at("function.parameters"), message));
    }
    Ok(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: Value) -> Result<Option<Tools>, String> {
        let mut request: GenerateRequest = serde_json::from_value(body).unwrap();
        Tools::new(&mut request).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"properties": {"a": {"type": "integer"}}}}})
    }

    #[test]
    fn templates_get_what_was_sent_and_nothing_else() {
        let body = json!({"tools": [
            {"type": "function", "function": {"name": "f", "strict": true, "description": "d", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g"}},
        ]});
        let expected = json!([
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g"}},
        ]);
        assert_eq!(checked(body).unwrap().unwrap().for_template(), expected);
    }

    #[test]
    fn the_choice_decides_what_may_be_called() {
        let choose = |choice: Value| checked(json!({"tools": [tool("f"), tool("g")], "tool_choice": choice})).unwrap();
        assert_eq!(choose("none".into()), None);
        let auto = choose("auto".into()).unwrap();
        assert!(!auto.required && auto.parallel && auto.tools.len() == 2);
        assert!(choose("required".into()).unwrap().required);
        let named = choose(json!({"type": "function", "function": {"name": "g"}})).unwrap();
        assert!(named.required && !named.parallel && named.tools.len() == 1 && named.tools[0].name == "g");
    }

    #[test]
    fn no_tools_need_nothing() {
        for body in [
            json!({}),
            json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": true}),
            json!({"tools": [], "tool_choice": "none"}),
        ] {
            assert_eq!(checked(body), Ok(None));
        }
    }

    #[test]
    fn the_grammar_has_the_form_of_a_call_and_free_text_only_where_it_may_be() {
        let lark = |choice: &str, parallel: bool, open: bool| {
            let body = json!({"tools": [tool("f")], "tool_choice": choice, "parallel_tool_calls": parallel});
            checked(body).unwrap().unwrap().lark(open, open, None)
        };
        let required = lark("required", true, true);
        assert!(
            required.starts_with("start: call (\"\\n\" call){0,15}\ncall: <tool_call> (call0) </tool_call>\n"),
            "{required}"
        );
        assert!(
            required.contains(r#"call0: "\n{\"name\": \"f\", \"arguments\": " args0 "}\n""#),
            "{required}"
        );
        assert!(
            required.contains(r#""type":"object""#) && required.contains(r#""lenient":true"#),
            "{required}"
        );
        assert!(lark("auto", false, true).starts_with("start: TEXT call?\nTEXT: "));
        let texts = lark("auto", true, false);
        assert!(
            texts.contains("head[lazy]: TEXT \"<tool_call>\"\ncall: head (call0) \"</tool_call>\"\n"),
            "{texts}"
        );
    }

    #[test]
    fn a_schema_for_the_text_leaves_calls_or_its_json() {
        let lark = |parallel: bool, open: bool| {
            let tools = checked(json!({"tools": [tool("f")], "parallel_tool_calls": parallel}));
            tools
                .unwrap()
                .unwrap()
                .lark(open, open, Some(&json!({"type": "array"})))
        };
        let one = lark(false, true);
        let begin = "start: call | text\ntext: %json {\"type\":\"array\"}\ncall: <tool_call> (call0) </tool_call>\n";
        assert!(one.starts_with(begin), "{one}");
        let several = lark(true, false);
        let begin = "start: call (\"\\n\" call){0,15} | text\n";
        assert!(
            several.starts_with(begin) && several.contains("call: \"<tool_call>\" (call0)"),
            "{several}"
        );
    }

    #[test]
    fn what_is_no_tool_is_refused_by_place() {
        let named = |name: &str| json!({"tools": [tool(name)]});
        for (body, param) in [
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (named(""), "tools[0].function.name"),
            (named("a b"), "tools[0].function.name"),
            (named(&"a".repeat(MAX_NAME_BYTES + 1)), "tools[0].function.name"),
            (json!({"tools": [tool("f"), tool("f")]}), "tools[1].function.name"),
            (json!({"tools": vec![tool("f"); MAX_TOOLS + 1]}), "tools"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}),
                "tools[0].function.parameters",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]}),
                "tools[0].function.parameters",
            ),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tools": [tool("f")], "tool_choice": "always"}), "tool_choice"),
            (
                json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
                "tool_choice",
            ),
        ] {
            assert_eq!(checked(body.clone()), Err(param.to_owned()), "{body}");
        }
    }
}
