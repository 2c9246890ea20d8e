//! The form of an answer that a request asks for, by whichever of the names: one grammar for the engine, and the
//! field that it came from, for what compiling it finds.
use crate::error::ApiError;
use serde_json::{Value, json};
use windlass_api::openai::{GenerateRequest, ResponseFormat};
use windlass_engine::grammar::Grammar;

/// Texts to choose from.
pub const MAX_CHOICES: usize = 1024;
/// White space in JSON, at each place where it may be: enough for indentation, too little to fill an answer with.
const WHITE_SPACE: &str = r"[ \n\r\t]{1,40}";

/// A grammar and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// What the answer must be.
    pub grammar: Grammar,
    /// The field.
    pub param: &'static str,
}

/// The form that is asked for, if any; a request may name one.
pub fn form(request: &mut GenerateRequest) -> Result<Option<Form>, ApiError> {
    let structured = request.structured_outputs.take().unwrap_or_default();
    let object = (structured.json_object == Some(true)).then(|| json!({"type": "object"}));
    let mut forms = Vec::new();
    if let Some((param, schema, lenient)) = response_format(request.response_format.take())? {
        forms.push((param, Grammar::JsonSchema(with_options(schema, lenient))));
    }
    for (param, schema) in [
        ("structured_outputs.json", structured.json),
        ("structured_outputs.json_object", object),
        ("guided_json", request.guided_json.take()),
        ("json_schema", request.json_schema.take()),
    ] {
        if let Some(schema) = schema {
            forms.push((param, Grammar::JsonSchema(with_options(parsed(param, schema)?, false))));
        }
    }
    for (param, regex) in [
        ("structured_outputs.regex", structured.regex),
        ("guided_regex", request.guided_regex.take()),
    ] {
        forms.extend(regex.map(|regex| (param, Grammar::Regex(regex))));
    }
    for (param, choices) in [
        ("structured_outputs.choice", structured.choice),
        ("guided_choice", request.guided_choice.take()),
    ] {
        if let Some(choices) = choices {
            forms.push((param, Grammar::Lark(one_of(param, &choices)?)));
        }
    }
    for (param, text) in [
        ("structured_outputs.grammar", structured.grammar),
        ("guided_grammar", request.guided_grammar.take()),
    ] {
        forms.extend(text.map(|text| (param, grammar(text))));
    }
    let gbnf = request.grammar.take().filter(|text| !text.is_empty());
    forms.extend(gbnf.map(|text| ("grammar", Grammar::Gbnf(text))));
    if let [(first, _), (second, _), ..] = forms[..] {
        return Err(ApiError::invalid(
            second,
            format!("`{first}` gives the answer a form already"),
        ));
    }
    Ok(forms.pop().map(|(param, grammar)| Form { grammar, param }))
}

/// The field, its schema, and whether what cannot be kept to in it is left out.
fn response_format(format: Option<ResponseFormat>) -> Result<Option<(&'static str, Value, bool)>, ApiError> {
    const SCHEMA: &str = "response_format.json_schema.schema";
    let Some(format) = format else { return Ok(None) };
    match format.kind.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(("response_format", json!({"type": "object"}), false))),
        "json_schema" => {
            let format = format.json_schema.unwrap_or_default();
            let schema = format
                .schema
                .ok_or_else(|| ApiError::invalid(SCHEMA, "it is missing"))?;
            Ok(Some((SCHEMA, parsed(SCHEMA, schema)?, format.strict != Some(true))))
        }
        _ => Err(ApiError::invalid(
            "response_format.type",
            "it must be text, json_object or json_schema",
        )),
    }
}

/// A schema that came as the text of one.
fn parsed(param: &'static str, schema: Value) -> Result<Value, ApiError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(schema),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema),
            Ok(_) => Err(ApiError::invalid(param, "it must be a JSON schema")),
            Err(error) => Err(ApiError::invalid(param, format!("it is not JSON: {error}"))),
        },
        _ => Err(ApiError::invalid(param, "it must be a JSON schema")),
    }
}

/// The schema with what the engine shall make of it, unless it says so itself.
pub fn with_options(mut schema: Value, lenient: bool) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields
            .entry("x-guidance")
            .or_insert_with(|| json!({"whitespace_pattern": WHITE_SPACE, "lenient": lenient}));
    }
    schema
}

/// A grammar in one of the notations that vLLM's callers use. Lark has no `::=` outside of texts, where it is rare.
fn grammar(text: String) -> Grammar {
    match text.contains("::=") {
        true => Grammar::Gbnf(text),
        false => Grammar::Lark(text),
    }
}

fn one_of(param: &'static str, choices: &[String]) -> Result<String, ApiError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES || choices.iter().any(String::is_empty) {
        let message = format!("1 to {MAX_CHOICES} texts are allowed, none of them empty");
        return Err(ApiError::invalid(param, message));
    }
    let choices: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
    // As one terminal: a thousand alternatives of a rule would be a thousand ways to read each answer.
    Ok(format!("start: CHOICE\nCHOICE: {}", choices.join(" | ")))
}

/// A text as Lark writes it: as JSON does, and without the one control character that JSON leaves.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBNF: &str = "root ::= \"a\"";

    fn checked(body: Value) -> Result<Option<Form>, String> {
        let mut request: GenerateRequest = serde_json::from_value(body).unwrap();
        form(&mut request).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    fn asked(body: Value) -> Grammar {
        checked(body).unwrap().unwrap().grammar
    }

    #[test]
    fn every_name_of_a_form_becomes_its_grammar() {
        let schema = json!({"type": "integer"});
        let options = |lenient| json!({"whitespace_pattern": WHITE_SPACE, "lenient": lenient});
        let integer = |lenient| Grammar::JsonSchema(json!({"type": "integer", "x-guidance": options(lenient)}));
        for (body, lenient) in [
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
                true,
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"strict": true, "schema": schema}}}),
                false,
            ),
            (json!({"structured_outputs": {"json": schema}}), false),
            (json!({"guided_json": schema.to_string()}), false),
            (json!({ "json_schema": schema }), false),
        ] {
            assert_eq!(asked(body), integer(lenient));
        }
        let object = Grammar::JsonSchema(json!({"type": "object", "x-guidance": options(false)}));
        assert_eq!(asked(json!({"response_format": {"type": "json_object"}})), object);
        assert_eq!(asked(json!({"structured_outputs": {"json_object": true}})), object);
        for body in [
            json!({"structured_outputs": {"regex": "a+"}}),
            json!({"guided_regex": "a+"}),
        ] {
            assert_eq!(asked(body), Grammar::Regex("a+".into()));
        }
        for body in [
            json!({"structured_outputs": {"choice": ["a\"b\n", "\u{7f}"]}}),
            json!({"guided_choice": ["a\"b\n", "\u{7f}"]}),
        ] {
            assert_eq!(
                asked(body),
                Grammar::Lark("start: CHOICE\nCHOICE: \"a\\\"b\\n\" | \"\\u007f\"".into())
            );
        }
        for body in [
            json!({"structured_outputs": {"grammar": "start: \"a\""}}),
            json!({"guided_grammar": "start: \"a\""}),
        ] {
            assert_eq!(asked(body), Grammar::Lark("start: \"a\"".into()));
        }
        for body in [
            json!({"structured_outputs": {"grammar": GBNF}}),
            json!({"guided_grammar": GBNF}),
            json!({"grammar": GBNF}),
        ] {
            assert_eq!(asked(body), Grammar::Gbnf(GBNF.into()));
        }
    }

    #[test]
    fn no_wish_is_no_form() {
        for body in [
            json!({}),
            json!({"response_format": {"type": "text"}, "guided_json": null}),
            json!({"structured_outputs": {"json_object": false}}),
            json!({"grammar": ""}),
        ] {
            assert_eq!(checked(body), Ok(None));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (body, param) in [
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "response_format.json_schema.schema",
            ),
            (json!({"guided_json": 5}), "guided_json"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_json": "5"}), "guided_json"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", ""]}), "guided_choice"),
            (json!({"guided_choice": vec!["a"; MAX_CHOICES + 1]}), "guided_choice"),
            (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex"),
            (json!({"grammar": GBNF, "json_schema": {}}), "grammar"),
            (json!({"grammar": GBNF, "guided_grammar": GBNF}), "grammar"),
            (
                json!({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}),
                "structured_outputs.regex",
            ),
        ] {
            assert_eq!(checked(body.clone()), Err(param.to_owned()), "{body}");
        }
    }
}
