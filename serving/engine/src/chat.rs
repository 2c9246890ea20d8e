//! Chat messages to a prompt, by the Jinja template inside the model file. The template is code of a
//! stranger: it runs with bounded fuel, depth and output and reaches nothing but its arguments. What users
//! write cannot become a control token (see `tokenizer::protect`).
use std::io;
use std::sync::Arc;
use std::time::Duration;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::Map;

use crate::tokenizer::Tokenizer;
use crate::tokenizer::protect::{RenderedPrompt, protect_value};

use thread::Limited;

mod clock;
mod depth;
mod python;
mod text;
mod thread;

/// Longest template; the longest published ones have 20 kB.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Longest rendered prompt.
pub const MAX_PROMPT_BYTES: usize = 1 << 25;

/// Instructions, and 64-byte portions of data, of one rendering: a chat of a thousand messages takes
/// some 10^5.
const FUEL: u64 = 2_000_000;
/// How long a rendering may take: a second of work, on a processor that has other work too.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Depth of nested constructs; a macro call counts as several.
const MAX_DEPTH: usize = 150;

const NAME: &str = "chat_template";

/// For models without a template of their own.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    tokenizer: Arc<Tokenizer>,
    source: Source,
    calls_tools: bool,
    time_limit: Duration,
    limited: Limited<Result<RenderedPrompt, TemplateError>>,
}

/// Where a template comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The model file.
    Model,
    /// The model file has none: ChatML.
    Fallback,
}

/// What a template may be given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions<'a> {
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Descriptions of tools, as in OpenAI's `tools`.
    pub tools: Option<&'a serde_json::Value>,
    /// Further variables (`chat_template_kwargs`); they come from the caller, so they are protected too.
    pub variables: Option<&'a Map<String, serde_json::Value>>,
    /// The time that `strftime_now` formats, in seconds since 1970, UTC.
    pub now: i64,
}

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is not one.
    #[error("the model's chat template is not valid Jinja: {0}")]
    Syntax(#[source] minijinja::Error),
    /// The template is longer than any sensible one.
    #[error("the model's chat template has {0} bytes; at most {MAX_TEMPLATE_BYTES} are allowed")]
    TemplateTooLong(usize),
    /// The template refused the messages (`raise_exception`).
    #[error("the model's chat template refuses the messages: {0}")]
    Refused(String),
    /// The prompt would be too long.
    #[error("the rendered prompt is longer than {MAX_PROMPT_BYTES} bytes")]
    PromptTooLong,
    /// The template does too much work.
    #[error("the model's chat template takes too many steps on these messages")]
    OutOfFuel,
    /// The template takes too long, or did so on earlier messages and still runs.
    #[error("the model's chat template takes too long")]
    TooSlow,
    /// The system starts no thread for it.
    #[error("cannot start a thread for the model's chat template: {0}")]
    Thread(#[source] io::Error),
    /// Anything else, such as a message without a field that the template reads.
    #[error("the model's chat template fails on the messages: {0}")]
    Failed(#[source] minijinja::Error),
}

impl ChatTemplate {
    /// Compiles the template of a model file, or the fallback if there is none.
    pub fn new(template: Option<&str>, tokenizer: Arc<Tokenizer>) -> Result<Self, TemplateError> {
        let (text, source) = match template {
            Some(text) => (text, Source::Model),
            None => (CHATML, Source::Fallback),
        };
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TemplateTooLong(text.len()));
        }
        let environment = thread::with_stack(|| compile(text))
            .map_err(TemplateError::Thread)?
            .map_err(TemplateError::Syntax)?;
        let calls_tools = environment
            .get_template(NAME)
            .map_err(TemplateError::Syntax)?
            .undeclared_variables(false)
            .contains("tools")
            && text.contains("<tool_call>")
            && !text.contains("<function=");
        Ok(Self {
            environment: Arc::new(environment),
            tokenizer,
            source,
            calls_tools,
            time_limit: TIME_LIMIT,
            limited: Limited::default(),
        })
    }

    /// Another time for a rendering than ten seconds.
    #[must_use]
    pub fn with_time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// Whether the model brought it.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether it knows tools, and calls of them as JSON between `<tool_call>` and `</tool_call>`.
    pub fn calls_tools(&self) -> bool {
        self.calls_tools
    }

    /// Renders `messages` (an array of objects as in OpenAI's `messages`).
    pub fn render(
        &self,
        messages: &serde_json::Value,
        options: &RenderOptions<'_>,
    ) -> Result<RenderedPrompt, TemplateError> {
        let mut context = Map::new();
        for (name, value) in options.variables.into_iter().flatten() {
            context.insert(name.clone(), protect_value(value, &self.tokenizer));
        }
        context.insert("messages".into(), protect_value(messages, &self.tokenizer));
        if let Some(tools) = options.tools {
            context.insert("tools".into(), protect_value(tools, &self.tokenizer));
        }
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        for (name, token) in [("bos_token", self.tokenizer.bos()), ("eos_token", self.tokenizer.eos())] {
            let text = token
                .and_then(|token| self.tokenizer.token_text(token))
                .unwrap_or_default();
            context.insert(name.into(), text.into());
        }
        let now = options.now;
        let clock = Value::from_function(move |format: &str| clock::format(now, format));
        let context = minijinja::context! { strftime_now => clock, ..Value::from(Serde(&context)) };

        let environment = Arc::clone(&self.environment);
        self.limited
            .run(self.time_limit, move || write(&environment, context))
            .map_err(TemplateError::Thread)?
            .unwrap_or(Err(TemplateError::TooSlow))
    }
}

fn write(environment: &Environment, context: Value) -> Result<RenderedPrompt, TemplateError> {
    let template = environment.get_template(NAME).map_err(TemplateError::Syntax)?;
    let mut output = Bounded::default();
    match template.render_captured_to(context, &mut output) {
        // What users write is UTF-8 and so is the template: the check cannot fail, and costs little.
        Ok(_) => String::from_utf8(output.bytes)
            .map(RenderedPrompt::new)
            .map_err(|_| TemplateError::Failed(ErrorKind::WriteFailure.into())),
        Err(_) if output.overflowed => Err(TemplateError::PromptTooLong),
        Err(error) => Err(classify(error)),
    }
}

fn compile(text: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    python::extend(&mut environment)?;
    depth::extend(&mut environment);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    let text = depth::guarded(&python::without_training_marks(text), python::syntax()?)?;
    environment.add_template_owned(NAME, text)?;
    Ok(environment)
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Output up to [`MAX_PROMPT_BYTES`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_PROMPT_BYTES - self.bytes.len() {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn classify(error: minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(python::Raised(message)) = current.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        let out_of_fuel = |error: &minijinja::Error| matches!(error.kind(), ErrorKind::OutOfFuel);
        if current.downcast_ref().is_some_and(out_of_fuel) {
            return TemplateError::OutOfFuel;
        }
        cause = current.source();
    }
    TemplateError::Failed(error)
}
