//! The engine without HTTP: how fast it reads a prompt, and how fast it writes at a given batch. The output is that
//! of llama.cpp's `llama-batched-bench --output-format jsonl`, as far as `bench compare` reads it.
use crate::random::Random;
use crate::summary::median;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;
use windlass_engine::Engine;
use windlass_engine::request::{EngineOptions, Event, Request, RequestId};

/// What may be typed.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// The model file (GGUF).
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Threads that compute. Default: all that this process may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Tokens of the prompt whose reading is timed.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prefill: u32,
    /// Tokens of the prompts before the decoding that is timed.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens that each sequence then writes.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    tokens: u32,
    /// Sequences that write at once.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [1, 8, 32])]
    batch: Vec<usize>,
    /// Measurements of each number; the median is told.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Tokens of each prompt.
    pub pp: u32,
    /// Tokens that each sequence writes; 1 where only reading is timed.
    pub tg: u32,
    /// Sequences at once.
    pub pl: usize,
    /// Prompt tokens a second.
    pub speed_pp: f64,
    /// Written tokens a second, of all sequences together.
    pub speed_tg: f64,
    /// Share of the time of a step that only reading its weights takes; nothing where only reading prompts is timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_of_memory: Option<f64>,
}

/// Measures and hands each line to `print` as soon as it is known.
pub fn run(args: &EngineArgs, mut print: impl FnMut(Rates)) -> Result<()> {
    let threads = crate::machine::threads(args.threads)?;
    let most = args.batch.iter().copied().max().context("--batch is empty")?;
    ensure!(!args.batch.contains(&0), "--batch: a batch has at least one sequence");
    let context = (args.prefill + 1).max(args.prompt + args.tokens) as usize;
    let engine = Engine::load(
        &args.model,
        &EngineOptions {
            threads,
            context_length: Some(context),
            max_sequences: most,
            max_batch_tokens: most.max(512),
            ..EngineOptions::default()
        },
    )?;
    let mut bench = Bench {
        engine,
        random: Random::new(1, 0),
        next: 0,
        events: Vec::new(),
    };
    bench.reading(args.prefill)?; // caches and pages are warm from here on
    let prefill: Result<Vec<f64>> = (0..args.repeat).map(|_| bench.reading(args.prefill)).collect();
    print(Rates {
        pp: args.prefill,
        tg: 1,
        pl: 1,
        speed_pp: median(prefill?),
        speed_tg: 0.0,
        share_of_memory: None,
    });
    for &batch in &args.batch {
        let (mut reading, mut writing, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            let memory = bench.reading_weights();
            let (read, written) = bench.writing(batch, args.prompt, args.tokens)?;
            reading.push(read);
            writing.push(written);
            // In the same memory, right before and after: other pages, or another second, may be twice as fast.
            shares.push(memory.min(bench.reading_weights()) * written / batch as f64);
        }
        print(Rates {
            pp: args.prompt,
            tg: args.tokens,
            pl: batch,
            speed_pp: median(reading),
            speed_tg: median(writing),
            share_of_memory: Some(median(shares)),
        });
    }
    Ok(())
}

struct Bench {
    engine: Engine,
    random: Random,
    next: u64,
    events: Vec<Event>,
}

impl Bench {
    /// Seconds that only reading the weights takes, in the best of some tries.
    fn reading_weights(&self) -> f64 {
        let times = (0..10).map(|_| {
            let start = Instant::now();
            self.engine.read_weights();
            start.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    }

    /// Prompt tokens a second of one prompt.
    fn reading(&mut self, prompt: u32) -> Result<f64> {
        let start = Instant::now();
        self.submit(prompt, 1)?;
        while self.engine.has_work() {
            self.step()?;
        }
        Ok(f64::from(prompt) / start.elapsed().as_secs_f64())
    }

    /// Tokens a second, read and written. Writing counts from the step after which every sequence has a token, to
    /// the one with which the first of them ends: for as long as all of them write.
    fn writing(&mut self, batch: usize, prompt: u32, tokens: u32) -> Result<(f64, f64)> {
        let begin = Instant::now();
        // Prompts longer than one step holds are read one after another; the early ones write meanwhile.
        for _ in 0..batch {
            self.submit(prompt, tokens as usize)?;
        }
        let mut begun = std::collections::HashSet::new();
        while begun.len() < batch {
            let (_, ended) = self.step()?;
            ensure!(
                ended == 0,
                "--tokens is too short: a sequence ended before all had begun"
            );
            begun.extend(self.events.iter().filter_map(|event| match event {
                Event::Token { id, .. } => Some(*id),
                _ => None,
            }));
        }
        let start = Instant::now();
        let mut written = 0;
        loop {
            let (tokens, ended) = self.step()?;
            written += tokens;
            if ended > 0 || !self.engine.has_work() {
                break;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        while self.engine.has_work() {
            self.step()?;
        }
        let read = (batch * prompt as usize) as f64 / (start - begin).as_secs_f64();
        Ok((read, written as f64 / seconds))
    }

    /// A prompt of random tokens, different from all before it, so that no prefix is cached.
    fn submit(&mut self, prompt: u32, max_tokens: usize) -> Result<()> {
        let vocabulary = self.engine.info().vocab_size as u64;
        let prompt = (0..prompt).map(|_| self.random.below(vocabulary) as u32).collect();
        let id = RequestId(self.next);
        self.next += 1;
        self.engine.submit(Request {
            ignore_eos: true,
            cache_salt: id.0,
            ..Request::new(id, prompt, max_tokens)
        })?;
        Ok(())
    }

    /// Tokens and ends that came out of one step.
    fn step(&mut self) -> Result<(usize, usize)> {
        self.events.clear();
        self.engine.step(&mut self.events);
        let (mut tokens, mut ended) = (0, 0);
        for event in &self.events {
            match event {
                Event::Token { .. } => tokens += 1,
                Event::Finished { reason, .. } => {
                    ended += 1;
                    if *reason != windlass_engine::request::FinishReason::Length {
                        bail!("a sequence ended with {reason:?}");
                    }
                }
                Event::Started { .. } | Event::Prompt { .. } | Event::Ended { .. } => {}
            }
        }
        Ok((tokens, ended))
    }
}
