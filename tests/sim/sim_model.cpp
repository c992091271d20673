#include "tests/sim/sim_model.hpp"

#include <stdlib.h>

#include <cmath>
#include <filesystem>

#include "bench/mesh/local_mesh.hpp"
#include "common/base/assert.hpp"
#include "common/base/log_redirect.hpp"
#include "common/base/rng.hpp"
#include "common/model/synth.hpp"
#include "services/expert/weight_store.hpp"
#include "services/router/choice.hpp"

namespace fulgur::sim {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kRequests = 24;

/// One lightning and one softmax layer, four experts of which two run: the smallest model in which
/// everything happens.
model::SynthPreset preset() {
  model::ModelConfig config;
  config.model_type = "minimax_m1";
  config.dialect = model::Dialect::original;
  config.layers = 2;
  config.attention = {model::AttentionKind::lightning, model::AttentionKind::softmax};
  const auto alpha = static_cast<float>(std::pow(2.0 * config.layers, 0.25));
  config.lightning_residual = config.softmax_residual = config.mlp_residual = {alpha, 1.0F};
  config.postnorm = true;
  config.rope_theta = 1e7;
  config.max_positions = 4096;
  config.hidden = 32;
  config.vocab = 64;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.rotary_dim = 8;
  config.experts = 4;
  config.experts_per_token = 2;
  config.expert_inner = 16;
  return {"simulation", "2 layers, 4 experts", config, 1};
}

std::string make_directory() {
  std::string path = (fs::temp_directory_path() / "fulgur-sim-XXXXXX").string();
  FULGUR_ASSERT(mkdtemp(path.data()) != nullptr, "no temporary directory");
  return path;
}

}  // namespace

const SimModel& SimModel::instance() {
  static const SimModel model;
  return model;
}

kernels::Backend& SimModel::backend() {
  static const auto backend = kernels::make_cpu_backend({}).value();
  return *backend;
}

SimModel::SimModel() : directory_(make_directory()) {
  log::redirect(log::Level::error, [](log::Level, std::string_view) {});
  const std::string directory = directory_ + "/model";
  model::SynthOptions options;
  options.directory = directory;
  options.seed = 7;
  options.threads = 1;
  const auto written = model::synthesize(preset(), options);
  FULGUR_ASSERT(written.is_ok(), written.status().to_string());
  checkpoint_ = model::Checkpoint::open(directory).value();
  served_ = router::ServedModel::load({.directory = directory, .served_name = "sim"}).value();
  const auto& config = checkpoint_->config();
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) {
    for (std::uint32_t expert = 0; expert < config.experts; ++expert) {
      experts_.push_back(expert::load_expert(*checkpoint_, {layer, expert}, backend()).value());
    }
  }
  fill_catalogue();
  log::redirect(log::Level::error, {});
}

SimModel::~SimModel() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

void SimModel::fill_catalogue() {
  const RealClock clock;
  const auto mesh =
      mesh::LocalMesh::start(checkpoint_, backend(), clock, mesh::LocalMeshOptions{}).value();
  Rng rng(2026);
  for (std::size_t at = 0; at < kRequests; ++at) {
    auto request = std::make_shared<router::GenerationRequest>();
    request->stream = at % 4 != 3;
    request->logprobs = true;
    request->return_token_ids = true;
    request->n = at % 6 == 5 ? 2 : 1;
    request->max_tokens = 2 + static_cast<std::uint32_t>(rng.below(9));
    request->sampling.temperature = at % 3 == 0 ? 0.0F : 0.9F;
    request->sampling.top_p = at % 5 == 2 ? 0.9F : 1.0F;
    request->sampling.repetition_penalty = at % 7 == 4 ? 1.1F : 1.0F;
    if (at % 4 == 1) request->stop_token_ids = {3, 17, 40, 41};
    // Most fit a page and a block; some cross both.
    const std::size_t lengths[] = {1, 3, 9, 20, 5, 62, 2, 14, 7, 130, 4, 30};
    auto prompt = std::make_shared<router::TokenIds>();
    for (std::size_t i = 0; i < lengths[at % std::size(lengths)]; ++i) {
      prompt->push_back(static_cast<std::uint32_t>(rng.below(checkpoint_->config().vocab)));
    }
    RequestSpec spec{request, prompt, rng.next(), {}};
    for (std::uint32_t n = 0; n < request->n; ++n) spec.expected.push_back(compute(*mesh, spec, n));
    requests_.push_back(std::move(spec));
  }
}

Stream SimModel::compute(mesh::LocalMesh& mesh, const RequestSpec& spec,
                         std::uint32_t n_index) const {
  const router::Choice choice(spec.request, served_, spec.prompt, n_index, spec.seed);
  const auto id = mesh.submit(choice.submit(1));
  FULGUR_ASSERT(mesh.run(), "the yardstick does not end");
  const mesh::Generation& result = mesh.generation(id);
  FULGUR_ASSERT(result.end.code == Code::ok, result.end.message);
  return {result.tokens, result.logprobs,
          result.end.reason == wire::FinishReason::stop ? "stop" : "length"};
}

}  // namespace fulgur::sim
