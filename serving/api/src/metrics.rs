//! Metric names as they appear on `GET /metrics`. The `vllm:` names, label names and meanings are a
//! de facto protocol: endpoint pickers, dashboards and autoscaling recipes read them unchanged.

/// Label on every metric: the served model's name.
pub const MODEL_NAME_LABEL: &str = "model_name";
/// Label of `REQUEST_SUCCESS`: `stop`, `length`, `abort` (the caller went away) or `error`.
pub const FINISHED_REASON_LABEL: &str = "finished_reason";

/// Gauge: sequences that were part of the last step.
pub const REQUESTS_RUNNING: &str = "vllm:num_requests_running";
/// Gauge: sequences admitted that wait for their first step.
pub const REQUESTS_WAITING: &str = "vllm:num_requests_waiting";
/// Gauge: share of the KV cache's blocks in use, 0 to 1.
pub const KV_CACHE_USAGE: &str = "vllm:kv_cache_usage_perc";
/// Gauge that is always 1; its labels `block_size` and `num_gpu_blocks` size the KV cache.
pub const CACHE_CONFIG_INFO: &str = "vllm:cache_config_info";
/// Counter: prompt tokens looked up in the prefix cache.
pub const PREFIX_CACHE_QUERIES: &str = "vllm:prefix_cache_queries_total";
/// Counter: prompt tokens that the prefix cache served.
pub const PREFIX_CACHE_HITS: &str = "vllm:prefix_cache_hits_total";
/// Counter: prompt tokens computed.
pub const PROMPT_TOKENS: &str = "vllm:prompt_tokens_total";
/// Counter: tokens generated.
pub const GENERATION_TOKENS: &str = "vllm:generation_tokens_total";
/// Counter: sequences that lost their blocks and were computed again.
pub const PREEMPTIONS: &str = "vllm:num_preemptions_total";
/// Counter: tokens guessed for answers that repeat something.
pub const DRAFT_TOKENS: &str = "vllm:spec_decode_num_draft_tokens_total";
/// Counter: those of them that were right.
pub const ACCEPTED_TOKENS: &str = "vllm:spec_decode_num_accepted_tokens_total";
/// Counter: sequences that ended, by `finished_reason`.
pub const REQUEST_SUCCESS: &str = "vllm:request_success_total";
/// Histogram, seconds: from the arrival of a request to its first token.
pub const TIME_TO_FIRST_TOKEN: &str = "vllm:time_to_first_token_seconds";
/// Histogram, seconds: between two tokens of a sequence.
pub const INTER_TOKEN_LATENCY: &str = "vllm:inter_token_latency_seconds";
/// Histogram, seconds: from the arrival of a request to its end.
pub const E2E_LATENCY: &str = "vllm:e2e_request_latency_seconds";
/// Histogram, seconds: from the arrival of a request to the start of its first step.
pub const QUEUE_TIME: &str = "vllm:request_queue_time_seconds";
/// Histogram, tokens: length of the prompts.
pub const REQUEST_PROMPT_TOKENS: &str = "vllm:request_prompt_tokens";
/// Histogram, tokens: length of the answers.
pub const REQUEST_GENERATION_TOKENS: &str = "vllm:request_generation_tokens";
/// Counter: answers over HTTP, by `route` and `code`.
pub const HTTP_RESPONSES: &str = "windlass:http_responses_total";
