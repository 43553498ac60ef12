"""Streams an answer from a running server:  client.py [ADDRESS [PROMPT]]"""
import sys

import grpc
from tandem.v1 import generate_pb2, generation_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
prompt = sys.argv[2] if len(sys.argv) > 2 else "Tell me a story about a fox."

stub = generation_pb2_grpc.GenerationStub(grpc.insecure_channel(address))
turn = f"<bos><|turn>user\n{prompt}<turn|>\n<|turn>model\n"
request = generate_pb2.GenerateRequest(text=turn, parse_special=True)
request.stopping.max_tokens = 200
for event in stub.GenerateStream(request, timeout=60):
    print(event.delta.text, end="", flush=True)
print()
