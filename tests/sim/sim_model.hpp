// What all simulations of one process share and none may change: a tiny synthetic checkpoint, its
// packed experts, the catalogue of requests, and what each of them must produce, computed once by
// the single-process mesh.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/model/checkpoint.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/router/generation_request.hpp"
#include "services/router/served_model.hpp"

namespace fulgur::mesh {
class LocalMesh;
}

namespace fulgur::sim {

/// What one choice of a request must produce, to the bit.
struct Stream {
  std::vector<std::uint32_t> tokens;
  std::vector<float> logprobs;
  std::string finish_reason;
  friend bool operator==(const Stream&, const Stream&) = default;
};

/// A request of the catalogue.
struct RequestSpec {
  std::shared_ptr<const router::GenerationRequest> request;
  std::shared_ptr<const router::TokenIds> prompt;
  std::uint64_t seed = 0;
  std::vector<Stream> expected;  ///< [n]
};

class SimModel {
 public:
  /// Throws when the model cannot be made.
  static const SimModel& instance();
  ~SimModel();
  SimModel(const SimModel&) = delete;
  SimModel& operator=(const SimModel&) = delete;
  static kernels::Backend& backend();

  const model::Checkpoint& checkpoint() const { return *checkpoint_; }
  std::shared_ptr<const model::Checkpoint> shared_checkpoint() const { return checkpoint_; }
  std::shared_ptr<const router::ServedModel> served() const { return served_; }
  std::shared_ptr<const kernels::Expert> expert(std::uint32_t layer, std::uint32_t expert) const {
    return experts_.at(layer * checkpoint_->config().experts + expert);
  }
  const std::vector<RequestSpec>& requests() const { return requests_; }

 private:
  SimModel();
  void fill_catalogue();
  Stream compute(mesh::LocalMesh& mesh, const RequestSpec& spec, std::uint32_t n_index) const;

  std::string directory_;  ///< temporary; the checkpoint's files are mapped when they are needed
  std::shared_ptr<const model::Checkpoint> checkpoint_;
  std::shared_ptr<const router::ServedModel> served_;
  std::vector<std::shared_ptr<const kernels::Expert>> experts_;  ///< [layers * experts]
  std::vector<RequestSpec> requests_;
};

}  // namespace fulgur::sim
