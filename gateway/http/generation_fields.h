// The fields that chat and completion requests share: sampling, lengths, stops, streaming, and those that are
// known but not supported.
#pragma once

#include "gateway/admission/generator.h"
#include "gateway/http/fields.h"

namespace tandem::gateway::http {

struct StreamFields {
  bool stream = false;
  bool include_usage = false;
  bool include_drafts = false;  // ours
};

// Required, at most limits::kModelNameBytes, without control characters. Whether it exists is for Generator.
void ReadModel(Fields& fields, std::string* model);

void ReadSamplingFields(Fields& fields, GenerationRequest* request);
void ReadStop(Fields& fields, GenerationRequest* request);
void ReadStreamFields(Fields& fields, StreamFields* stream);

// Marks what may be given and changes nothing; refuses what would change the answer and is not supported,
// naming the field. Reads request->model and request->n.
void RefuseUnsupported(Fields& fields, const GenerationRequest& request);

}  // namespace tandem::gateway::http
