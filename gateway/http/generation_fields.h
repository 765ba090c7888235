// The fields that chat and completion requests share: sampling, lengths, stops, streaming, and those that are
// known but not supported.
#pragma once

#include <map>
#include <string>

#include "gateway/admission/generator.h"
#include "gateway/http/fields.h"

namespace tandem::gateway::http {

struct StreamFields {
  bool stream = false;
  bool include_usage = false;
  bool include_drafts = false;  // ours
  int unknown_fields = 0;       // of stream_options
};

// Required, at most limits::kModelNameBytes, without control characters. Whether it exists is for Generator.
void ReadModel(Fields& fields, std::string* model);

void ReadSamplingFields(Fields& fields, GenerationRequest* request);
void ReadStop(Fields& fields, GenerationRequest* request);
void ReadStreamFields(Fields& fields, const std::string& model, StreamFields* stream);
// chat_template_kwargs. Which of them may be set is for Generator.
void ReadTemplateFlags(Fields& fields, std::map<std::string, bool>* flags);

// Marks what may be given and changes nothing; refuses what would change the answer and is not supported,
// naming the field. Reads request->model and request->n.
void RefuseUnsupported(Fields& fields, const GenerationRequest& request);
// The same for /tokenize.
void RefuseUnsupportedTokenize(Fields& fields, const std::string& model);

}  // namespace tandem::gateway::http
